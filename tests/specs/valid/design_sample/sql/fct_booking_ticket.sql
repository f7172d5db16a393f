select 1 as ticket_no, flight_id as flight_nk from flights join dim_airport on true
