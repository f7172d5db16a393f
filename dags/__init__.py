"""What Airflow reads: the loader. Also the names that older DAG files import; the code is
`loadsheet.airflow`."""
