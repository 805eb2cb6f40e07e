-- The task that claim.sql would take next from a line, after a place (run_after and id). NULL begins at its head.
SELECT id, greatest(run_after, 'epoch') AS run_after FROM tasks
WHERE status IN ('queued', 'retry') AND type = :type AND priority = :priority
  AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key AND run_after <= queue_now()
  AND (expires_at IS NULL OR expires_at > queue_now())
  AND (run_after, id) > (coalesce(:after::timestamptz, '-infinity'),
                         coalesce(:after_id::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY run_after, id LIMIT 1
