SELECT d.day, d.rate
FROM mart.dayly d WHERE d.day > :since
