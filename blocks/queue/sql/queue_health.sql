-- The waiting tasks of each type, and for how long the oldest has waited. It is found in the claim index. Ready tasks
-- are counted only up to $1, because a backlog may be millions.
SELECT line.type,
       sum((SELECT count(*) FROM (
           SELECT FROM tasks WHERE status IN ('queued', 'retry') AND tasks.type = line.type
               AND tasks.priority = line.priority AND run_after <= queue_now() LIMIT $1
       ) counted))::bigint AS ready,
       max(extract(epoch FROM queue_now())
           - extract(epoch FROM greatest(head.run_after, least(head.created_at, queue_now()), 'epoch')))::float8 AS oldest_s
FROM (
    WITH RECURSIVE line AS (
        (SELECT type, priority FROM tasks WHERE status IN ('queued', 'retry') ORDER BY type, priority LIMIT 1)
        UNION ALL
        SELECT following.* FROM line CROSS JOIN LATERAL (
            SELECT type, priority FROM tasks
            WHERE status IN ('queued', 'retry') AND (type, priority) > (line.type, line.priority)
            ORDER BY type, priority LIMIT 1
        ) following
    )
    SELECT * FROM line
) line
CROSS JOIN LATERAL (
    SELECT run_after, created_at FROM tasks
    WHERE status IN ('queued', 'retry') AND tasks.type = line.type AND tasks.priority = line.priority
      AND run_after <= queue_now()
    ORDER BY run_after, id LIMIT 1
) head
GROUP BY line.type
ORDER BY oldest_s DESC NULLS LAST
