"""Measurements, side by side. `python -m bench --help`; results land in bench/results/ and bench/results.md."""
