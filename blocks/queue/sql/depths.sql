-- How many tasks there are of each type and status, and for how many seconds the oldest has been due, running,
-- created or a dead letter. Reads the whole table.
SELECT type, status, tasks,
       -- Since 1970 at most: infinity is no age. Each by itself: before version 17 there is no difference to it.
       (extract(epoch FROM queue_now()) - extract(epoch FROM CASE WHEN oldest < 'epoch' THEN 'epoch' ELSE oldest END))::float8 AS oldest_s
FROM (
    SELECT coalesce(type, '') AS type, status::text, count(*) AS tasks,
           min(CASE status
               WHEN 'queued' THEN run_after
               WHEN 'retry' THEN run_after
               WHEN 'running' THEN locked_at
               WHEN 'created' THEN created_at
               WHEN 'failed' THEN finished_at END) AS oldest
    FROM tasks GROUP BY 1, status
) counted
