SELECT 1 AS n FROM rates, orders, mart.of_table
