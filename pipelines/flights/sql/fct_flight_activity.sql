-- Grain: one flight. Key: flight_nk.
-- Incremental: every flight that was loaded after :since_load, or whose airports (time zones) or aircraft were.
-- Local is the departure airport's time for departures, the arrival airport's for arrivals.
-- A key stays NULL until the row it points to has landed. updated_at tells of changes to the fact's own source rows,
-- not to its airports and aircraft: a renamed airport must not touch every flight.
WITH dimensions AS ( -- never read, so never run: it names what to build before this fact
    SELECT 1 FROM mart.dim_aircrafts, mart.dim_airport, mart.dim_date, mart.dim_time
)

SELECT
    f.flight_id AS flight_nk,
    f.flight_no,
    to_char(f.scheduled_departure AT TIME ZONE d.timezone, 'YYYYMMDD')::int AS scheduled_departure_local_date_id,
    to_char(f.scheduled_departure AT TIME ZONE d.timezone, 'HH24MI')::int AS scheduled_departure_local_time_id,
    to_char(f.scheduled_departure AT TIME ZONE 'UTC', 'YYYYMMDD')::int AS scheduled_departure_utc_date_id,
    to_char(f.scheduled_departure AT TIME ZONE 'UTC', 'HH24MI')::int AS scheduled_departure_utc_time_id,
    to_char(f.scheduled_arrival AT TIME ZONE a.timezone, 'YYYYMMDD')::int AS scheduled_arrival_local_date_id,
    to_char(f.scheduled_arrival AT TIME ZONE a.timezone, 'HH24MI')::int AS scheduled_arrival_local_time_id,
    to_char(f.scheduled_arrival AT TIME ZONE 'UTC', 'YYYYMMDD')::int AS scheduled_arrival_utc_date_id,
    to_char(f.scheduled_arrival AT TIME ZONE 'UTC', 'HH24MI')::int AS scheduled_arrival_utc_time_id,
    to_char(f.actual_departure AT TIME ZONE d.timezone, 'YYYYMMDD')::int AS actual_departure_local_date_id,
    to_char(f.actual_departure AT TIME ZONE d.timezone, 'HH24MI')::int AS actual_departure_local_time_id,
    to_char(f.actual_departure AT TIME ZONE 'UTC', 'YYYYMMDD')::int AS actual_departure_utc_date_id,
    to_char(f.actual_departure AT TIME ZONE 'UTC', 'HH24MI')::int AS actual_departure_utc_time_id,
    to_char(f.actual_arrival AT TIME ZONE a.timezone, 'YYYYMMDD')::int AS actual_arrival_local_date_id,
    to_char(f.actual_arrival AT TIME ZONE a.timezone, 'HH24MI')::int AS actual_arrival_local_time_id,
    to_char(f.actual_arrival AT TIME ZONE 'UTC', 'YYYYMMDD')::int AS actual_arrival_utc_date_id,
    to_char(f.actual_arrival AT TIME ZONE 'UTC', 'HH24MI')::int AS actual_arrival_utc_time_id,
    ('x' || substr(md5(d.airport_code), 1, 16))::bit(64)::bigint AS departure_airport,
    ('x' || substr(md5(a.airport_code), 1, 16))::bit(64)::bigint AS arrival_airport,
    ('x' || substr(md5(p.aircraft_code), 1, 16))::bit(64)::bigint AS aircraft_code,
    f.status,
    f.actual_departure - f.scheduled_departure AS delay_departure,
    f.actual_arrival - f.scheduled_arrival AS delay_arrival,
    f.actual_arrival - f.actual_departure AS travel_time,
    f.created_at,
    f.updated_at
FROM staging.flights AS f
LEFT JOIN staging.airports_data AS d ON d.airport_code = f.departure_airport
LEFT JOIN staging.airports_data AS a ON a.airport_code = f.arrival_airport
LEFT JOIN staging.aircrafts_data AS p ON p.aircraft_code = f.aircraft_code
WHERE
    f._load_id > :since_load
    OR d._load_id > :since_load
    OR a._load_id > :since_load
    OR p._load_id > :since_load
