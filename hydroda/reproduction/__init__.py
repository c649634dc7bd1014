"""Published studies, run again by one command each."""
