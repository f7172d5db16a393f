SELECT 1 AS n FROM countries, currencies
