"""Loadsheet's core: a spec in, rows in the warehouse out. Nothing here imports Airflow."""

__version__ = "0.1.0"
