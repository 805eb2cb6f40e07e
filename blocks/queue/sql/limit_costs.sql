-- What the next tasks of lines are expected to spend: the tasks that claim.sql would take, in its order.
SELECT line.number::int - 1 AS place, next.ids, next.costs
FROM unnest(:types::text[], :priorities::int[], :domains::text[], :keys::text[], :quotas::int[], :after::timestamptz[], :after_ids::uuid[])
    WITH ORDINALITY AS line(type, priority, domain, key, quota, after, after_id, number)
LEFT JOIN task_types policy ON policy.type = line.type
CROSS JOIN LATERAL (
    SELECT array_agg(id ORDER BY run_after, id) AS ids,
           array_agg(coalesce(cost, policy.cost, 1) ORDER BY run_after, id) AS costs
    FROM (
        SELECT id, run_after, cost FROM tasks
        WHERE status IN ('queued', 'retry') AND tasks.type = line.type AND tasks.priority = line.priority
          AND coalesce(tasks.domain, '') = line.domain AND coalesce(tasks.key, '') = line.key
          AND (run_after, id) > (coalesce(line.after, '-infinity'),
                                 coalesce(line.after_id, '00000000-0000-0000-0000-000000000000'))
          AND run_after <= queue_now() AND (expires_at IS NULL OR expires_at > queue_now())
        ORDER BY run_after, id
        LIMIT line.quota
    ) waiting
) next
