select 1 as person_id
