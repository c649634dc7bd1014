"""What the command line offers besides the daily work: a deployment made ready, research, a person at a terminal."""
