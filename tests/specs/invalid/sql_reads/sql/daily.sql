SELECT o.day, o.note, r.rate FROM staging.orders o JOIN reference.rates r USING (day) JOIN refrence.days d USING (day)
