-- Counts the tasks of the same line before a task, up to 5,000. Without a domain or key, that is empty.
SELECT count(*) FROM (
    SELECT FROM tasks
    WHERE status IN ('queued', 'retry') AND type = :type AND priority = :priority
      AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key AND (run_after, id) < (:run_after, :id::uuid)
    -- Without the order the planner may scan the table for the first 5,000.
    ORDER BY run_after, id
    LIMIT 5000
) before
