-- Counts the tasks of the same line before a task, up to 1000.
-- $1 type, $2 priority, $3 run_after, $4 id.
SELECT count(*) FROM (
    SELECT FROM tasks
    WHERE status IN ('queued', 'retry') AND type = $1 AND priority = $2 AND (run_after, id) < ($3, $4::uuid)
    -- Without the order the planner may scan the table for the first 1000.
    ORDER BY run_after, id
    LIMIT 1000
) before
