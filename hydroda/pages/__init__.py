"""What people look at: pictures of forecasts and scores, and the page of the newest cycle."""
