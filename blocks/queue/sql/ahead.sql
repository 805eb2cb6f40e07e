-- Counts the tasks of the same line before a task, up to 1000.
-- $1 type, $2 priority, $3 domain and $4 key, empty for none, $5 run_after, $6 id.
SELECT count(*) FROM (
    SELECT FROM tasks
    WHERE status IN ('queued', 'retry') AND type = $1 AND priority = $2
      AND coalesce(domain, '') = $3 AND coalesce(key, '') = $4 AND (run_after, id) < ($5, $6::uuid)
    -- Without the order the planner may scan the table for the first 1000.
    ORDER BY run_after, id
    LIMIT 1000
) before
