SELECT 1 AS n FROM staging.log_web
