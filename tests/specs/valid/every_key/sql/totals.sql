select count(*) as days from daily
