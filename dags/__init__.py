"""What Airflow reads: a DAG bundle in which every pipeline file is a DAG file (`bundle.py`), and for an Airflow that
cannot have it one DAG file for all of them (`load_pipelines.py`). `.airflowignore` keeps Airflow away from the rest."""
