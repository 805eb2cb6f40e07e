-- A page of the audit, in descending order of ids, which grow with time.
SELECT id, at, action, actor, left(details::text, 10000) AS details, tasks
FROM task_audit
WHERE (:action::text IS NULL OR action = :action) AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC
LIMIT :limit
