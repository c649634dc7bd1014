"""Filters on made-up rivers whose truth is known, filters beside each other, gauges made wrong."""
