select day, place, sum(amount) as amount from lines join orders using (order_id) group by day, place
