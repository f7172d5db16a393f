"""Alerts: what people are told when a task fails, works again, or finds that columns have changed,
and the ways it goes. Sending never fails or holds up a task: see docs/alerts.md."""
