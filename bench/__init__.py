"""Measurements, side by side. `python -m bench --help`; results land in bench/results/ and
bench/results.md."""

import os

# pip has compiled the peers when it installed them, so Python may keep what it has compiled of us,
# too.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
