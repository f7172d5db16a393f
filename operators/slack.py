"""Alerts about failed and recovered tasks, by an earlier name."""

from loadsheet.airflow.alerts.callbacks import notify_failure
from loadsheet.airflow.alerts.callbacks import notify_success as notify_recovery

__all__ = ["notify_failure", "notify_recovery"]
