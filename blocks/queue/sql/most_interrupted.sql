-- The unfinished tasks that were interrupted most, if more than twice.
SELECT id, type, interrupted FROM tasks
WHERE {often_interrupted}
ORDER BY interrupted DESC LIMIT :limit
