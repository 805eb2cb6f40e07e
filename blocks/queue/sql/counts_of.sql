-- Counts the tasks that match, by status.
SELECT status::text, count(*) AS tasks
FROM tasks
WHERE (cardinality(:statuses::taskstatus[]) = 0 OR status = ANY (:statuses::taskstatus[]))
  AND (:type::text IS NULL OR type = :type) AND (:domain::text IS NULL OR domain = :domain)
  AND (:created_since::timestamptz IS NULL OR created_at >= :created_since) AND (:created_until::timestamptz IS NULL OR created_at < :created_until)
  AND (:error::text IS NULL OR position(lower(:error) IN lower(left(error, 1000000))) > 0)
GROUP BY status
