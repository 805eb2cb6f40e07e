-- $1 statuses. Each of these, or NULL for any: $2 type, $3 domain, $4 LIKE pattern of the error, finished from $5, to
-- $6.
SELECT count(*) FROM tasks
WHERE status = ANY ($1::taskstatus[]) AND finished_at >= coalesce($5::timestamptz, '-infinity')
  AND finished_at <= coalesce($6::timestamptz, queue_now())
  AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR domain = $3) AND ($4::text IS NULL OR error LIKE $4)
