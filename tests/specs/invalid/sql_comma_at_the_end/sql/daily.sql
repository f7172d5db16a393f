SELECT
  id,
  amount,
FROM staging.orders
