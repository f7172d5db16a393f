SELECT o.id, c.name FROM staging.orders o JOIN staging.countries c ON c.code = o.country
