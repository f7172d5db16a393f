"""What Airflow tasks run: thin. Hooks and context in, one call into `loadsheet`, the result out."""
