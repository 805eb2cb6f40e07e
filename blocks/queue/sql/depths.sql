-- Counts tasks by type and status, with the seconds for which the oldest has been due, running, created or a dead
-- letter. Reads the whole table.
SELECT type, status, tasks,
       -- No earlier than 1970: an age cannot be infinite. Both are extracted separately: before version 17 infinity
       -- cannot be subtracted.
       (extract(epoch FROM queue_now()) - extract(epoch FROM CASE WHEN oldest < 'epoch' THEN 'epoch' ELSE oldest END))::float8 AS oldest_s
FROM (
    SELECT coalesce(type, '') AS type, {shown_status} AS status, count(*) AS tasks,
           min(CASE status
               WHEN 'queued' THEN CASE WHEN waits_for IS NULL THEN run_after ELSE updated_at END
               WHEN 'retry' THEN run_after
               WHEN 'running' THEN locked_at
               WHEN 'created' THEN created_at
               WHEN 'failed' THEN finished_at END) AS oldest
    FROM tasks GROUP BY 1, 2
) counted
