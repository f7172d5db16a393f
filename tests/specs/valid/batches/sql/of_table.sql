SELECT 1 AS n FROM events
