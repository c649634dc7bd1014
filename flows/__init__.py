"""Prefect flows: when things happen. The work itself is in `hydroda.steps`."""
