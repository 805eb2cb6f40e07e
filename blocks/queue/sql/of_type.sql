-- The other tasks of a type that live lanes hold, and how many of them a handler is known to have begun with.
SELECT count(*) AS held, min(coalesce(begun_at, locked_at)) AS held_since,
       count(begun_at) AS begun, min(begun_at) AS begun_since
FROM lanes CROSS JOIN LATERAL (
    -- LATERAL and OFFSET: the planner may turn a join into a scan of the table.
    SELECT locked_at, CASE WHEN begun_at >= locked_at THEN begun_at END AS begun_at
    FROM tasks WHERE locked_by = lanes.id AND status = 'running' AND type = :type AND tasks.id <> :id
    OFFSET 0
) task
WHERE lanes.lease_until > queue_now()
