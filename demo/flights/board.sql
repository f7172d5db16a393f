-- Boarding passes for the tickets on the given flights that have none: the next boarding numbers, free seats of the
-- ticket's class. %(everybody)s: all passengers; otherwise about half of them, always the same half.
WITH flight AS (
    SELECT flight_id, aircraft_code FROM bookings.flights WHERE flight_id = ANY(%(flights)s)
), passenger AS (
    SELECT ticket_no, flight_id, fare_conditions,
           row_number() OVER (PARTITION BY flight_id, fare_conditions ORDER BY ticket_no) AS nth_of_class,
           row_number() OVER (PARTITION BY flight_id ORDER BY md5(ticket_no || flight_id)) AS nth
    FROM bookings.ticket_flights
    JOIN flight USING (flight_id)
    LEFT JOIN bookings.boarding_passes USING (ticket_no, flight_id)
    WHERE boarding_no IS NULL AND (%(everybody)s OR md5(flight_id || ticket_no) < '8')
), seat AS (
    SELECT flight_id, fare_conditions, seat_no,
           row_number() OVER (PARTITION BY flight_id, fare_conditions ORDER BY md5(seat_no || flight_id)) AS nth_of_class
    FROM flight
    JOIN bookings.seats USING (aircraft_code)
    LEFT JOIN bookings.boarding_passes USING (flight_id, seat_no)
    WHERE boarding_no IS NULL
), boarded AS (
    SELECT flight_id, coalesce(max(boarding_no), 0) AS last
    FROM flight LEFT JOIN bookings.boarding_passes USING (flight_id) GROUP BY flight_id
)
INSERT INTO bookings.boarding_passes (ticket_no, flight_id, boarding_no, seat_no)
SELECT ticket_no, flight_id, last + nth, seat_no
FROM passenger JOIN seat USING (flight_id, fare_conditions, nth_of_class) JOIN boarded USING (flight_id)
