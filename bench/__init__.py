"""Measurements, run from the project's root: `python -m bench.<name>`."""
