"""Data sources: one function `read(start, end, catchments, **options)` in one file each."""
