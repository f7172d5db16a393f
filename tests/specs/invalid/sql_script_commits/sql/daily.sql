DELETE FROM mart.daily;
COMMIT;
