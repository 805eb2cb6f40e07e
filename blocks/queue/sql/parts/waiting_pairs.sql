-- The types and priorities of waiting tasks. Jumps from one to the next in the index.
pair AS (
    (SELECT type, priority FROM tasks WHERE status IN ('queued', 'retry') ORDER BY type, priority LIMIT 1)
    UNION ALL
    SELECT following.* FROM pair CROSS JOIN LATERAL (
        SELECT type, priority FROM tasks
        WHERE status IN ('queued', 'retry') AND (type, priority) > (pair.type, pair.priority)
        ORDER BY type, priority LIMIT 1
    ) following
)
