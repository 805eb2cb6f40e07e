-- The tasks of a `TaskFilter`. Each of its fields may be NULL, and the statuses empty.
(cardinality(:statuses::taskstatus[]) = 0 OR status = ANY (:statuses::taskstatus[]))
  AND (:type::text IS NULL OR type = :type)
  AND (:domain::text IS NULL OR domain = :domain)
  AND (:created_since::timestamptz IS NULL OR created_at >= :created_since)
  AND (:created_until::timestamptz IS NULL OR created_at < :created_until)
  AND (:error::text IS NULL OR position(lower(:error) IN lower(left(error, 1000000))) > 0)
