"""What Airflow reads. `load_pipelines.py` is the only DAG file; `.airflowignore` keeps Airflow away from the rest."""
