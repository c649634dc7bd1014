"""Hourly streamflow forecasting by data assimilation into rainfall-runoff models."""

__version__ = "0.1.0"
