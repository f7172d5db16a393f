-- The flights source: the tables of the public `bookings` demonstration schema (2017 edition) with two audit columns.
-- Keys, foreign keys and indexes are in keys.sql, created after the rows because that is much faster.

CREATE SCHEMA bookings;

-- The moment at which the data stands; `day` moves it on.
CREATE FUNCTION bookings.now() RETURNS timestamptz LANGUAGE sql IMMUTABLE
    AS $$ SELECT '2017-08-15 15:00:00+00'::timestamptz $$;

CREATE TABLE bookings.aircrafts_data (
    aircraft_code char(3) NOT NULL,
    model         jsonb   NOT NULL,
    range         integer NOT NULL CHECK (range > 0),
    created_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at    timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE bookings.airports_data (
    airport_code char(3) NOT NULL,
    airport_name jsonb   NOT NULL,
    city         jsonb   NOT NULL,
    coordinates  point   NOT NULL,
    timezone     text    NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at   timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE bookings.bookings (
    book_ref     char(6)       NOT NULL,
    book_date    timestamptz   NOT NULL,
    total_amount numeric(10,2) NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at   timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE bookings.tickets (
    ticket_no      char(13)    NOT NULL,
    book_ref       char(6)     NOT NULL,
    passenger_id   varchar(20) NOT NULL,
    passenger_name text        NOT NULL,
    contact_data   jsonb,
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at     timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE bookings.seats (
    aircraft_code   char(3)     NOT NULL,
    seat_no         varchar(4)  NOT NULL,
    fare_conditions varchar(10) NOT NULL CHECK (fare_conditions IN ('Economy', 'Comfort', 'Business')),
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE bookings.flights (
    flight_id           integer     NOT NULL,
    flight_no           char(6)     NOT NULL,
    scheduled_departure timestamptz NOT NULL,
    scheduled_arrival   timestamptz NOT NULL,
    departure_airport   char(3)     NOT NULL,
    arrival_airport     char(3)     NOT NULL,
    status              varchar(20) NOT NULL
        CHECK (status IN ('Scheduled', 'On Time', 'Delayed', 'Departed', 'Arrived', 'Cancelled')),
    aircraft_code       char(3)     NOT NULL,
    actual_departure    timestamptz,
    actual_arrival      timestamptz,
    created_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CHECK (scheduled_arrival > scheduled_departure),
    CHECK (actual_arrival IS NULL OR (actual_departure IS NOT NULL AND actual_arrival > actual_departure))
);

CREATE TABLE bookings.ticket_flights (
    ticket_no       char(13)      NOT NULL,
    flight_id       integer       NOT NULL,
    fare_conditions varchar(10)   NOT NULL CHECK (fare_conditions IN ('Economy', 'Comfort', 'Business')),
    amount          numeric(10,2) NOT NULL CHECK (amount >= 0),
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE bookings.boarding_passes (
    ticket_no   char(13)   NOT NULL,
    flight_id   integer    NOT NULL,
    boarding_no integer    NOT NULL,
    seat_no     varchar(4) NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE FUNCTION bookings.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END $$;

CREATE TRIGGER touch BEFORE UPDATE ON bookings.aircrafts_data  FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.airports_data   FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.bookings        FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.tickets         FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.seats           FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.flights         FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.ticket_flights  FOR EACH ROW EXECUTE FUNCTION bookings.touch();
CREATE TRIGGER touch BEFORE UPDATE ON bookings.boarding_passes FOR EACH ROW EXECUTE FUNCTION bookings.touch();
