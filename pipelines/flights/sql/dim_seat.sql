-- Grain: one seat of an aircraft type. Key: (aircraft_id, seat_no).
-- Incremental: the seats loaded after :since_load.
SELECT
    ('x' || substr(md5(aircraft_code || '/' || seat_no), 1, 16))::bit(64)::bigint AS seat_id, -- see dim_aircrafts
    ('x' || substr(md5(aircraft_code), 1, 16))::bit(64)::bigint AS aircraft_id,
    seat_no,
    fare_conditions,
    created_at,
    updated_at
FROM staging.seats
WHERE _load_id > :since_load
