-- The tasks of a `RedriveFilter`. Each of its fields but the statuses may be NULL.
status = ANY (:statuses::taskstatus[])
  AND finished_at >= coalesce(:since::timestamptz, '-infinity')
  AND finished_at <= coalesce(:until::timestamptz, queue_now())
  AND (:type::text IS NULL OR type = :type)
  AND (:domain::text IS NULL OR domain = :domain)
  AND (:error::text IS NULL OR error LIKE :error)
