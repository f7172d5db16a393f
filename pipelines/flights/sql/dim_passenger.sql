-- Grain: one passenger, as on the ticket of theirs that changed last. Key: passenger_nk.
-- Computed whole, without :since_load, so that the merge also deletes: when a ticket passes to another passenger,
-- staging no longer tells whom it left, who may be gone or known by an older ticket. Only what differs is written.
SELECT DISTINCT ON (t.passenger_id)
    ('x' || substr(md5(t.passenger_id), 1, 16))::bit(64)::bigint AS passenger_id, -- see dim_aircrafts
    t.passenger_id AS passenger_nk,
    t.passenger_name,
    t.contact_data ->> 'phone' AS phone,
    t.contact_data ->> 'email' AS email,
    min(t.created_at) OVER (PARTITION BY t.passenger_id) AS created_at,
    t.updated_at
FROM staging.tickets AS t
ORDER BY t.passenger_id, t.updated_at DESC, t.ticket_no DESC
