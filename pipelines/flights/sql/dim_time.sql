-- Grain: one minute of the day. Key: time_id (hhmm as a number: 5 is 00:05, 2359 is 23:59).
-- Reads nothing, so it is built once.
SELECT
    to_char(moment, 'HH24MI')::int AS time_id,
    moment::time AS time_of_day,
    extract(hour FROM moment)::int AS hour,
    extract(minute FROM moment)::int AS minute,
    CASE
        WHEN extract(hour FROM moment) < 6 THEN 'night'
        WHEN extract(hour FROM moment) < 12 THEN 'morning'
        WHEN extract(hour FROM moment) < 18 THEN 'afternoon'
        ELSE 'evening'
    END AS part_of_day
FROM generate_series(timestamp '2000-01-01', timestamp '2000-01-01 23:59', interval '1 minute') AS moments (moment)
