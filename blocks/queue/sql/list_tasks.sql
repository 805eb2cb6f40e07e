-- $1 status or NULL, $2 type or NULL, $3 domain or NULL, $4 limit
SELECT id, type, status::text, attempts, domain, created_at, finished_at, left(error, 10000) AS error
FROM tasks
WHERE ($1::text IS NULL OR status = $1::taskstatus) AND ($2::text IS NULL OR type = $2)
  AND ($3::text IS NULL OR domain = $3)
ORDER BY created_at DESC, id
LIMIT $4
