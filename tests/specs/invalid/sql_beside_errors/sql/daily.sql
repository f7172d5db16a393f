DELETE FROM mart.daily
