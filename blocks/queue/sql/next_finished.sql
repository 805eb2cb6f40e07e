-- The task that redrive.sql would read first after a place: finished_at, as text, and id. NULL begins with the first.
SELECT finished_at::text, id FROM tasks
WHERE status = :status::text::taskstatus AND finished_at >= coalesce(:since::timestamptz, '-infinity')
  AND finished_at <= :until
  AND (finished_at, id) > (coalesce(:after::text::timestamptz, '-infinity'),
                           coalesce(:after_id::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY finished_at, id LIMIT 1
