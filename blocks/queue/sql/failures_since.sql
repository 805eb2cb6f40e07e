-- $1 moment, $2 limit
SELECT id, type, status::text, attempts, domain, created_at, finished_at, error
FROM tasks
WHERE status = 'failed' AND finished_at >= $1
ORDER BY finished_at DESC
LIMIT $2
