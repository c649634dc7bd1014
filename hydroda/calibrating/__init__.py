"""Parameters of a model, error levels of a filter and what is issued, from the record of a catchment."""
