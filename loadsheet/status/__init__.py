"""The status of a pipeline: watermarks, rows, lag, failures. Read-only."""
