-- The other tasks of a type that live lanes hold, and how many of them a handler is known to have begun with.
-- $1 type, $2 id of a task.
SELECT count(*) AS held, min(coalesce(begun_at, locked_at)) AS held_since,
       count(begun_at) AS begun, min(begun_at) AS begun_since
FROM lanes CROSS JOIN LATERAL (
    -- LATERAL and OFFSET: the planner may turn a join into a scan of the table.
    SELECT locked_at, CASE WHEN begun_at >= locked_at THEN begun_at END AS begun_at
    FROM tasks WHERE locked_by = lanes.id AND status = 'running' AND type = $1 AND tasks.id <> $2
    OFFSET 0
) task
WHERE lanes.lease_until > queue_now()
