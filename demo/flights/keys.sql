-- Keys, foreign keys and the indexes that incremental extraction reads by.

ALTER TABLE bookings.aircrafts_data  ADD PRIMARY KEY (aircraft_code);
ALTER TABLE bookings.airports_data   ADD PRIMARY KEY (airport_code);
ALTER TABLE bookings.bookings        ADD PRIMARY KEY (book_ref);
ALTER TABLE bookings.tickets         ADD PRIMARY KEY (ticket_no);
ALTER TABLE bookings.seats           ADD PRIMARY KEY (aircraft_code, seat_no);
ALTER TABLE bookings.flights         ADD PRIMARY KEY (flight_id);
ALTER TABLE bookings.ticket_flights  ADD PRIMARY KEY (ticket_no, flight_id);
ALTER TABLE bookings.boarding_passes ADD PRIMARY KEY (ticket_no, flight_id);

ALTER TABLE bookings.flights         ADD UNIQUE (flight_no, scheduled_departure);
ALTER TABLE bookings.boarding_passes ADD UNIQUE (flight_id, boarding_no);
ALTER TABLE bookings.boarding_passes ADD UNIQUE (flight_id, seat_no);

ALTER TABLE bookings.tickets         ADD FOREIGN KEY (book_ref) REFERENCES bookings.bookings;
ALTER TABLE bookings.seats           ADD FOREIGN KEY (aircraft_code) REFERENCES bookings.aircrafts_data ON DELETE CASCADE;
ALTER TABLE bookings.flights         ADD FOREIGN KEY (departure_airport) REFERENCES bookings.airports_data;
ALTER TABLE bookings.flights         ADD FOREIGN KEY (arrival_airport) REFERENCES bookings.airports_data;
ALTER TABLE bookings.flights         ADD FOREIGN KEY (aircraft_code) REFERENCES bookings.aircrafts_data;
ALTER TABLE bookings.ticket_flights  ADD FOREIGN KEY (ticket_no) REFERENCES bookings.tickets;
ALTER TABLE bookings.ticket_flights  ADD FOREIGN KEY (flight_id) REFERENCES bookings.flights;
ALTER TABLE bookings.boarding_passes ADD FOREIGN KEY (ticket_no, flight_id) REFERENCES bookings.ticket_flights;

CREATE INDEX ON bookings.aircrafts_data  (updated_at);
CREATE INDEX ON bookings.airports_data   (updated_at);
CREATE INDEX ON bookings.bookings        (updated_at);
CREATE INDEX ON bookings.tickets         (updated_at);
CREATE INDEX ON bookings.seats           (updated_at);
CREATE INDEX ON bookings.flights         (updated_at);
CREATE INDEX ON bookings.ticket_flights  (updated_at);
CREATE INDEX ON bookings.boarding_passes (updated_at);
CREATE INDEX ON bookings.tickets         (book_ref);
CREATE INDEX ON bookings.ticket_flights  (flight_id);
