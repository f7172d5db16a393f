select day, count(*)
from orders
where (day > 1
group by day

