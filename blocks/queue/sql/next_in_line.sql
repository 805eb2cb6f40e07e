-- The task that claim.sql would take next from a line.
-- $1 type, $2 priority, $3 domain and $4 key, empty for none, $5 run_after and $6 id after which to begin, or NULL.
SELECT id, greatest(run_after, 'epoch') AS run_after FROM tasks
WHERE status IN ('queued', 'retry') AND type = $1 AND priority = $2
  AND coalesce(domain, '') = $3 AND coalesce(key, '') = $4 AND run_after <= queue_now()
  AND (run_after, id) > (coalesce($5::timestamptz, '-infinity'),
                         coalesce($6::uuid, '00000000-0000-0000-0000-000000000000'))
ORDER BY run_after, id LIMIT 1
