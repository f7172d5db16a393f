SELECT id FROM staging.orders
WHERE id > (SELECT max(id) FROM mart.daily)
