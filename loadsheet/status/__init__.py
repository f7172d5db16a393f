"""How a pipeline stands: watermarks, rows, lag, failures. Read-only."""
