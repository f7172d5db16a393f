delete from mart.totals where days < 0;
