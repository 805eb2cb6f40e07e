-- How many of the newest tasks that completed within the last five minutes are of a type, and in how many seconds all of
-- these did.
SELECT count(*) FILTER (WHERE type = :type) AS of_type,
       (extract(epoch FROM queue_now()) - extract(epoch FROM min(finished_at)))::float8 AS seconds
FROM (
    SELECT type, finished_at FROM tasks
    WHERE status = 'completed' AND finished_at > queue_now() - interval '5 minutes' AND finished_at <= queue_now()
    ORDER BY finished_at DESC LIMIT 2000
) newest
