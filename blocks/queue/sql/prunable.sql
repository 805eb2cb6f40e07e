-- The tasks that prune.sql would delete, after a place: finished_at, as text, and id. NULL begins with the first.
SELECT finished_at::text AS finished, id FROM tasks
WHERE status = :status::taskstatus AND finished_at < queue_now() - make_interval(secs => :older_than_s)
  AND (finished_at, id) > (coalesce(:after::text::timestamptz, '-infinity'),
                           coalesce(:after_id::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY finished_at, id LIMIT :limit
