-- Grain: one airport. Key: airport_nk.
-- Incremental: the airports loaded after :since_load.
SELECT
    ('x' || substr(md5(airport_code), 1, 16))::bit(64)::bigint AS airport_id, -- see dim_aircrafts
    airport_code AS airport_nk,
    airport_name ->> 'en' AS airport_name,
    city ->> 'en' AS city,
    coordinates,
    timezone,
    created_at,
    updated_at
FROM staging.airports_data
WHERE _load_id > :since_load
