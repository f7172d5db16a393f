"""The public operators under their documented names. The code is `loadsheet.airflow.operators`."""
