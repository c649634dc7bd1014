"""What comes out: the datasets of a product, their attributes, the check they pass, the order in which files appear."""
