"""Sequential filters; `recipe.py` says what a filter is, every other file is one family."""
