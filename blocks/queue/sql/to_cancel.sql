-- Ids of unfinished tasks that match and have not been asked to stop, as pages of page.sql.
SELECT id
FROM tasks
WHERE (cardinality(:statuses::taskstatus[]) = 0 OR status = ANY (:statuses::taskstatus[]))
  AND (:type::text IS NULL OR type = :type) AND (:domain::text IS NULL OR domain = :domain)
  AND (:created_since::timestamptz IS NULL OR created_at >= :created_since) AND (:created_until::timestamptz IS NULL OR created_at < :created_until)
  AND (:error::text IS NULL OR position(lower(:error) IN lower(left(error, 1000000))) > 0)
  AND (:before::uuid IS NULL OR id < :before)
  AND status IN ('created', 'queued', 'running', 'retry') AND NOT cancel_requested
ORDER BY id DESC
LIMIT :limit
