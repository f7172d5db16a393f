"""`create_bucket`: makes the lake"s bucket."""

from loadsheet.airflow.operators import CreateBucketOperator

__all__ = ["CreateBucketOperator"]
