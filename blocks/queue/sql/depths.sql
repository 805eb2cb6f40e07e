-- How many tasks there are of each type and status, and for how many seconds the oldest has been due, running,
-- created or a dead letter. Reads the whole table.
SELECT type, status::text, count(*) AS tasks,
       extract(epoch FROM queue_now() - min(CASE status
           WHEN 'queued' THEN run_after
           WHEN 'retry' THEN run_after
           WHEN 'running' THEN locked_at
           WHEN 'created' THEN created_at
           WHEN 'failed' THEN finished_at END))::float8 AS oldest_s
FROM tasks GROUP BY type, status
