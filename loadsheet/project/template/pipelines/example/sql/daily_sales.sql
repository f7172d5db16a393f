-- One row per day (in UTC) and country.
SELECT
    (o.ordered_at AT TIME ZONE 'UTC')::date AS day,
    c.country,
    count(*) AS orders,
    sum(o.amount) AS revenue
FROM staging.orders o
JOIN staging.customers c ON c.customer_id = o.customer_id
GROUP BY 1, 2
