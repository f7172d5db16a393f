SELECT 1 AS one FROM mart.daily, mart.gone, staging.orders, staging.lines
