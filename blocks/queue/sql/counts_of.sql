-- Counts the tasks that match, by status.
SELECT status::text, count(*) AS tasks
FROM tasks
WHERE {task_filter}
GROUP BY status
