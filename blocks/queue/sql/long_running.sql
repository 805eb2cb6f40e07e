-- The number of handlers that have run for longer, and the seconds for which the longest has run.
SELECT count(*) AS tasks,
       CASE WHEN count(*) = 0 THEN 0
           ELSE extract(epoch FROM queue_now()) - extract(epoch FROM greatest(min(begun_at), 'epoch')) END::float8 AS longest_s
FROM tasks
WHERE locked_by IS NOT NULL AND status = 'running'
  AND begun_at >= locked_at AND begun_at < queue_now() - make_interval(secs => :longer_than_s)
