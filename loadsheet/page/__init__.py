"""The page of `loadsheet ui` and of Airflow: what it shows, and its files. Read-only."""
