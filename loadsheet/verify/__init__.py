"""Compares staging tables with their source (`loadsheet verify`); writes only its verdicts."""
