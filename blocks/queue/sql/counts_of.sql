-- Counts the tasks that match, by status.
SELECT {shown_status} AS status, count(*) AS tasks
FROM tasks
WHERE {task_filter}
GROUP BY 1
