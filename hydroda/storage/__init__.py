"""What is kept and how: records of all that was received, files that appear whole or not at all, NetCDF, one lock."""
