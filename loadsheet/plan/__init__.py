"""Turns a spec into steps, and steps into a dag-factory configuration or text."""
