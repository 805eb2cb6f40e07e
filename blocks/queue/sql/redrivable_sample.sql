SELECT {task_summary} FROM tasks
WHERE {redrive_filter}
ORDER BY finished_at, id
LIMIT :limit
