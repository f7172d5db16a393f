"""Connections: found as Airflow finds them, parsed, and exported for Airflow's own import."""
