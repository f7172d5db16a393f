-- The schedule grows by a day at its far end: the same flights as a week earlier.
INSERT INTO bookings.flights (flight_id, flight_no, scheduled_departure, scheduled_arrival,
                              departure_airport, arrival_airport, status, aircraft_code)
SELECT (SELECT max(flight_id) FROM bookings.flights) + row_number() OVER (ORDER BY scheduled_departure, flight_no),
       flight_no, scheduled_departure + interval '7 days', scheduled_arrival + interval '7 days',
       departure_airport, arrival_airport, 'Scheduled', aircraft_code
FROM bookings.flights
WHERE scheduled_departure::date = (SELECT max(scheduled_departure)::date - 6 FROM bookings.flights)
