"""The only part that imports Airflow: operators, DAG factory, bundles, Slack."""
