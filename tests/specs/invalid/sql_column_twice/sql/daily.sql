SELECT o.id, c.id
FROM staging.orders o JOIN staging.orders c ON c.id = o.parent
