"""Hours in their order: the live cycle, from where it starts to what it publishes, and hindcasts by the same code."""
