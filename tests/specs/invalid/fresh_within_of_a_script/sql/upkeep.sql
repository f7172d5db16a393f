DELETE FROM mart.kept WHERE id IN (SELECT id FROM staging.orders);
