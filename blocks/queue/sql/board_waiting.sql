-- Waiting tasks by type, and by domain. Jumps from priority to priority of each type in the index, and reads only the
-- oldest tasks of each: those of neither domain nor key, and those that have one. So a backlog of millions costs as
-- much as one of thousands.
WITH RECURSIVE {waiting_pairs}, known AS MATERIALIZED (
    -- The limit ends the jumps.
    SELECT * FROM pair LIMIT :pairs
), share AS (
    SELECT greatest(:limit::bigint / greatest(2 * count(*), 1), 100) AS most FROM known
), head AS MATERIALIZED (
    SELECT known.type, one.domain, one.status, one.waits_for, one.run_after, one.created_at, one.place = (SELECT most FROM share) AS last_read
    FROM known CROSS JOIN LATERAL (
        (SELECT domain, status, waits_for, run_after, created_at, row_number() OVER (ORDER BY run_after, id) AS place
         FROM tasks
         WHERE status IN ('queued', 'retry') AND tasks.type = known.type AND tasks.priority = known.priority
           AND coalesce(domain, '') = '' AND coalesce(key, '') = ''
         ORDER BY run_after, id LIMIT (SELECT most FROM share))
        UNION ALL
        (SELECT domain, status, waits_for, run_after, created_at, row_number() OVER (ORDER BY run_after) AS place
         FROM tasks
         WHERE status IN ('queued', 'retry') AND tasks.type = known.type AND tasks.priority = known.priority
           AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '')
         ORDER BY run_after LIMIT (SELECT most FROM share))
    ) one
)
SELECT type, domain, grouping(type) = 1 AS by_domain,
       count(*) FILTER (WHERE run_after <= queue_now()) AS ready,
       count(*) FILTER (WHERE run_after > queue_now() AND status = 'retry') AS retrying,
       count(*) FILTER (WHERE run_after > queue_now() AND status = 'queued' AND waits_for IS NULL) AS scheduled,
       count(*) FILTER (WHERE run_after > queue_now() AND status = 'queued' AND waits_for IS NOT NULL) AS waiting,
       bool_or(last_read) AS more,
       -- NULL if none is ready. Moments before 1970 count as 1970.
       (extract(epoch FROM queue_now()) - extract(epoch FROM
           min(greatest(run_after, least(created_at, queue_now()), 'epoch')) FILTER (WHERE run_after <= queue_now())
       ))::float8 AS oldest_s
FROM head
GROUP BY GROUPING SETS ((type), (domain))
ORDER BY count(*) DESC
LIMIT 1000
