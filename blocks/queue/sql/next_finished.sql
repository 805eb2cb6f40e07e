-- The task that redrive.sql would read first.
-- $1 status; finished from $2, or NULL, to $3; $4 finished_at, as text, and $5 id after which to begin, or NULL.
SELECT finished_at::text, id FROM tasks
WHERE status = $1::text::taskstatus AND finished_at >= coalesce($2::timestamptz, '-infinity') AND finished_at <= $3
  AND (finished_at, id) > (coalesce($4::text::timestamptz, '-infinity'),
                           coalesce($5::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY finished_at, id LIMIT 1
