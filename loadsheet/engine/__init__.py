"""Runs steps: extract, load, transform, and what surrounds them. Airflow tasks and `loadsheet run`
both call it."""
