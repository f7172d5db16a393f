"""A real Airflow of one's own, on 127.0.0.1: for the demo and the integration tests."""

from demo.airflow.api import Api, ApiError, Task
from demo.airflow.server import Airflow

__all__ = ["Airflow", "Api", "ApiError", "Task"]
