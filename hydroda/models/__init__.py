"""Rainfall-runoff models; `model.py` says what every model promises."""
