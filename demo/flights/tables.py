"""The tables of the flights source, schema `bookings`."""

TABLES = (
    "aircrafts_data",
    "airports_data",
    "bookings",
    "tickets",
    "seats",
    "flights",
    "ticket_flights",
    "boarding_passes",
)
