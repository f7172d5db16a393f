"""The flights source: its schema, a deterministic generator, and days that pass."""

from demo.flights.day import a_day_passes
from demo.flights.generate import generate

__all__ = ["a_day_passes", "generate"]
