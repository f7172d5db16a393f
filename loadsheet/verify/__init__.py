"""Compares staging tables with their source (`loadsheet verify`); read-only."""
