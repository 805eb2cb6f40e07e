-- $1 seconds: how many handlers have run for longer, and for how long the longest has, in seconds
SELECT count(*) AS tasks, coalesce(extract(epoch FROM max(queue_now() - begun_at)), 0)::float8 AS longest_s
FROM tasks
WHERE locked_by IS NOT NULL AND status = 'running'
  AND begun_at >= locked_at AND begun_at < queue_now() - make_interval(secs => $1)
