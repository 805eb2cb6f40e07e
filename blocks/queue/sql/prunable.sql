-- The tasks that prune.sql would delete.
-- $1 status, $2 age in seconds, $3 finished_at, as text, and $4 id after which to begin, or NULL; $5 limit.
SELECT finished_at::text AS finished, id FROM tasks
WHERE status = $1::taskstatus AND finished_at < queue_now() - make_interval(secs => $2)
  AND (finished_at, id) > (coalesce($3::text::timestamptz, '-infinity'),
                           coalesce($4::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY finished_at, id LIMIT $5
