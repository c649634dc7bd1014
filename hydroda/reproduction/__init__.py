"""Studies of the literature, one package or file each, made again with the filters and models of this package."""
