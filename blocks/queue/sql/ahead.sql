-- $1 type, $2 priority, $3 run_after, $4 id: how many of its line come before a task; beyond 1000 nobody counts
SELECT count(*) FROM (
    SELECT FROM tasks
    WHERE status IN ('queued', 'retry') AND type = $1 AND priority = $2 AND (run_after, id) < ($3, $4::uuid)
    -- Else the planner may scan the table for the first 1000.
    ORDER BY run_after, id
    LIMIT 1000
) before
