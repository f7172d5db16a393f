"""Compares staging tables with their source, and marts with their SELECT (`loadsheet verify`)."""
