-- The task that claim.sql would take next from a line.
-- $1 type, $2 priority, $3 run_after and $4 id after which to begin, or NULL.
SELECT id, greatest(run_after, 'epoch') AS run_after FROM tasks
WHERE status IN ('queued', 'retry') AND type = $1 AND priority = $2 AND run_after <= queue_now()
  AND (run_after, id) > (coalesce($3::timestamptz, '-infinity'),
                         coalesce($4::uuid, '00000000-0000-0000-0000-000000000000'))
  AND (domain IS NULL OR domain <> ALL (ARRAY(SELECT name FROM pauses WHERE kind = 'domain')))
ORDER BY run_after, id LIMIT 1
