-- Grain: one arrived flight, on the day it left (local to the departure airport). Key: flight_nk.
-- Computed whole, without :since_load, so that the merge also deletes: a flight may stop being arrived, and counting
-- reads every boarding pass in any case. Only rows that differ are written.
WITH dimensions AS ( -- never read, so never run: it names what to build before this fact
    SELECT 1 FROM mart.dim_aircrafts, mart.dim_airport, mart.dim_date
),

occupied AS (
    SELECT flight_id, count(*)::int AS seats, max(updated_at) AS updated_at
    FROM staging.boarding_passes
    GROUP BY flight_id
),

installed AS (
    SELECT aircraft_code, count(*)::int AS seats
    FROM staging.seats
    GROUP BY aircraft_code
)

SELECT
    to_char(coalesce(f.actual_departure, f.scheduled_departure) AT TIME ZONE d.timezone, 'YYYYMMDD')::int
        AS date_flight,
    f.flight_id AS flight_nk,
    f.flight_no,
    ('x' || substr(md5(d.airport_code), 1, 16))::bit(64)::bigint AS departure_airport,
    ('x' || substr(md5(a.airport_code), 1, 16))::bit(64)::bigint AS arrival_airport,
    ('x' || substr(md5(p.aircraft_code), 1, 16))::bit(64)::bigint AS aircraft_code,
    f.status,
    coalesce(i.seats, 0) AS total_seat,
    coalesce(o.seats, 0) AS seat_occupied,
    coalesce(i.seats, 0) - coalesce(o.seats, 0) AS empty_seats,
    f.created_at,
    greatest(f.updated_at, o.updated_at) AS updated_at
FROM staging.flights AS f
LEFT JOIN staging.airports_data AS d ON d.airport_code = f.departure_airport
LEFT JOIN staging.airports_data AS a ON a.airport_code = f.arrival_airport
LEFT JOIN staging.aircrafts_data AS p ON p.aircraft_code = f.aircraft_code
LEFT JOIN occupied AS o ON o.flight_id = f.flight_id
LEFT JOIN installed AS i ON i.aircraft_code = f.aircraft_code
WHERE f.status = 'Arrived'
