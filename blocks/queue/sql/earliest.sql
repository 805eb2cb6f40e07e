-- The tasks of lines that expire first: their places in the line, by which claim.sql takes each of them. Of each line at
-- most its quota, and only after a place (expires_at and id), or the first if that is NULL.
SELECT line.number::int - 1 AS line, due.run_after, due.id, due.expires_at
FROM unnest(:types::text[], :priorities::int[], :domains::text[], :keys::text[], :quotas::int[], :after::timestamptz[], :after_ids::uuid[])
    WITH ORDINALITY AS line(type, priority, domain, key, quota, after, after_id, number)
CROSS JOIN LATERAL (
    SELECT run_after, id, expires_at FROM tasks
    WHERE expires_at IS NOT NULL AND status IN ('queued', 'retry')
      AND tasks.type = line.type AND tasks.priority = line.priority
      AND coalesce(tasks.domain, '') = line.domain AND coalesce(tasks.key, '') = line.key
      AND (expires_at, id) > (coalesce(line.after, queue_now()),
                              coalesce(line.after_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
      AND expires_at > queue_now() AND run_after <= queue_now()
    ORDER BY expires_at, id
    LIMIT line.quota
) due
ORDER BY line.number, due.expires_at, due.id
