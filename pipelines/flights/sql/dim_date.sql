-- Grain: one calendar day, 2010 to 2049. Key: date_id (yyyymmdd).
-- Reads nothing, so it is built once; build it again with a full refresh after changing the range.
SELECT
    to_char(day, 'YYYYMMDD')::int AS date_id,
    day::date AS full_date,
    extract(year FROM day)::int AS year,
    extract(quarter FROM day)::int AS quarter,
    extract(month FROM day)::int AS month,
    to_char(day, 'FMMonth') AS month_name,
    extract(day FROM day)::int AS day_of_month,
    extract(doy FROM day)::int AS day_of_year,
    extract(isoyear FROM day)::int AS iso_year,
    extract(week FROM day)::int AS iso_week,
    extract(isodow FROM day)::int AS day_of_week, -- 1 is Monday
    to_char(day, 'FMDay') AS day_name,
    extract(isodow FROM day) > 5 AS is_weekend
FROM generate_series(timestamp '2010-01-01', timestamp '2049-12-31', interval '1 day') AS days (day)
