"""Scores of forecasts, out of the store or of samples, and whether a filter knows its own error."""
