select flight_id as airport_nk from flights
