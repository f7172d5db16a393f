select 1 as day,
  'café' as place
