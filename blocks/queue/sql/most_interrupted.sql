-- The unfinished tasks that were interrupted most, if more than twice.
SELECT id, type, interrupted FROM tasks
WHERE interrupted > 2 AND status IN ('queued', 'retry', 'running')
ORDER BY interrupted DESC LIMIT :limit
