-- $1 to $6 as in redrivable.sql, $7 limit
SELECT id, type, status::text, attempts, domain, created_at, finished_at, left(error, 10000) AS error FROM tasks
WHERE status = ANY ($1::taskstatus[]) AND finished_at >= coalesce($5::timestamptz, '-infinity')
  AND finished_at <= coalesce($6::timestamptz, queue_now())
  AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR domain = $3) AND ($4::text IS NULL OR error LIKE $4)
ORDER BY finished_at, id
LIMIT $7
