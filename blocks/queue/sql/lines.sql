-- The lines of waiting tasks, one per type and priority, with the moment at which the first task of each is due. Jumps
-- from line to line in the index instead of reading the lines.
WITH RECURSIVE line AS (
    (SELECT type, priority FROM tasks WHERE status IN ('queued', 'retry') ORDER BY type, priority LIMIT 1)
    UNION ALL
    SELECT following.* FROM line CROSS JOIN LATERAL (
        SELECT type, priority FROM tasks
        WHERE status IN ('queued', 'retry') AND (type, priority) > (line.type, line.priority)
        ORDER BY type, priority LIMIT 1
    ) following
)
SELECT line.type, line.priority,
       -- Both are extracted separately: before version 17 infinity cannot be subtracted.
       (extract(epoch FROM head.run_after) - extract(epoch FROM queue_now()))::float8 AS due_s
FROM line CROSS JOIN LATERAL (
    SELECT run_after FROM tasks
    WHERE status IN ('queued', 'retry') AND tasks.type = line.type AND tasks.priority = line.priority
      AND (domain IS NULL OR domain <> ALL (ARRAY(SELECT name FROM pauses WHERE kind = 'domain')))
    ORDER BY run_after, id LIMIT 1
) head
WHERE NOT EXISTS (SELECT FROM pauses WHERE kind = 'type' AND name = line.type)
