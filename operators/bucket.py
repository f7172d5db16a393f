"""`create_bucket`: creates the lake's bucket."""

from loadsheet.airflow.operators import CreateBucketOperator

__all__ = ["CreateBucketOperator"]
