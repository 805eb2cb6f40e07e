-- Waiting tasks by type, and by domain. Jumps from line to line in the claim index, and reads only the first tasks of each
-- line, so a backlog of millions costs as much as one of thousands.
-- $1 about the most tasks to read, shared out evenly among the lines, $2 most lines.
WITH RECURSIVE line AS (
    (SELECT type, priority FROM tasks WHERE status IN ('queued', 'retry') ORDER BY type, priority LIMIT 1)
    UNION ALL
    SELECT following.* FROM line CROSS JOIN LATERAL (
        SELECT type, priority FROM tasks
        WHERE status IN ('queued', 'retry') AND (type, priority) > (line.type, line.priority)
        ORDER BY type, priority LIMIT 1
    ) following
), known AS MATERIALIZED (
    -- The limit ends the jumps.
    SELECT * FROM line LIMIT $2
), share AS (
    SELECT greatest($1::bigint / greatest(count(*), 1), 100) AS most FROM known
), head AS MATERIALIZED (
    SELECT known.type, one.domain, one.status, one.run_after, one.created_at, one.place = (SELECT most FROM share) AS last_read
    FROM known CROSS JOIN LATERAL (
        SELECT domain, status, run_after, created_at, row_number() OVER (ORDER BY run_after, id) AS place
        FROM tasks
        WHERE status IN ('queued', 'retry') AND tasks.type = known.type AND tasks.priority = known.priority
        ORDER BY run_after, id LIMIT (SELECT most FROM share)
    ) one
)
SELECT type, domain, grouping(type) = 1 AS by_domain,
       count(*) FILTER (WHERE run_after <= queue_now()) AS ready,
       count(*) FILTER (WHERE run_after > queue_now() AND status = 'retry') AS retrying,
       count(*) FILTER (WHERE run_after > queue_now() AND status = 'queued') AS scheduled,
       bool_or(last_read) AS more,
       -- NULL if none is ready. Moments before 1970 count as 1970.
       (extract(epoch FROM queue_now()) - extract(epoch FROM
           min(greatest(run_after, least(created_at, queue_now()), 'epoch')) FILTER (WHERE run_after <= queue_now())
       ))::float8 AS oldest_s
FROM head
GROUP BY GROUPING SETS ((type), (domain))
ORDER BY count(*) DESC
LIMIT 1000
