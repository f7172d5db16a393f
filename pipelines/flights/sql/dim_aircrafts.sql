-- Grain: one aircraft type. Key: aircraft_nk.
-- Incremental: the types loaded after :since_load.
SELECT
    -- The surrogate is a hash of the natural key, so it survives full refreshes and facts can compute it themselves.
    -- 64 bits: among 3 million keys any two meet with a probability of 2.4e-7 (n * n / 2 ^ 65).
    ('x' || substr(md5(aircraft_code), 1, 16))::bit(64)::bigint AS aircraft_id,
    aircraft_code AS aircraft_nk,
    model ->> 'en' AS model,
    range,
    created_at,
    updated_at
FROM staging.aircrafts_data
WHERE _load_id > :since_load
