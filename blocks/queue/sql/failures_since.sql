SELECT {task_summary}
FROM tasks
WHERE status = 'failed' AND finished_at >= :since
ORDER BY finished_at DESC
LIMIT :limit
