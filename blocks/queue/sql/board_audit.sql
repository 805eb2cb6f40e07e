-- A page of the audit, in descending order of ids, which grow with time.
-- $1 action or NULL, $2 id of the last row of the previous page or NULL, $3 limit.
SELECT id, at, action, actor, left(details::text, 10000) AS details, tasks
FROM task_audit
WHERE ($1::text IS NULL OR action = $1) AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3
