SELECT id, type, status::text, attempts, domain, created_at, finished_at, left(error, 10000) AS error
FROM tasks
WHERE status = 'failed' AND finished_at >= :since
ORDER BY finished_at DESC
LIMIT :limit
