-- A page of tasks, in descending order of their ids. Ids have an index. created_at has none, because every claim and
-- settlement would have to write it.
SELECT id, type, status::text, attempts, domain, created_at, finished_at, left(error, 10000) AS error
FROM tasks
WHERE (cardinality(:statuses::taskstatus[]) = 0 OR status = ANY (:statuses::taskstatus[]))
  AND (:type::text IS NULL OR type = :type) AND (:domain::text IS NULL OR domain = :domain)
  AND (:created_since::timestamptz IS NULL OR created_at >= :created_since) AND (:created_until::timestamptz IS NULL OR created_at < :created_until)
  AND (:error::text IS NULL OR position(lower(:error) IN lower(left(error, 1000000))) > 0)
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC
LIMIT :limit
