"""Slack messages about failed and recovered tasks."""

from loadsheet.airflow.slack import notify_failure, notify_recovery

__all__ = ["notify_failure", "notify_recovery"]
