-- Facts about the work that lanes hold, for an operator, in one snapshot. A task is handed over if no handler has begun
-- with its current claim. Only those claimed long ago count. Interrupted tasks are counted up to the limit.
WITH held AS MATERIALIZED (
    SELECT lane.id AS lane, task.*
    FROM lanes lane CROSS JOIN LATERAL (
        -- LATERAL and OFFSET: the planner may turn a join into a scan of the table.
        SELECT type, suspicion, locked_at, timeout_s, CASE WHEN begun_at >= locked_at THEN begun_at END AS begun_at
        FROM tasks WHERE locked_by = lane.id AND status = 'running'
        OFFSET 0
    ) task
    WHERE lane.lease_until > queue_now()
), leaving AS (
    SELECT lane.id, lane.run, coalesce(lane.leaving_at, lane.renewed_at) AS since, count(held.lane) AS tasks,
           min(coalesce(held.begun_at, held.locked_at)) AS oldest_at,
           -- NULL if one of them has no timeout here: the database does not know that of its organ.
           CASE WHEN bool_and(coalesce(held.timeout_s, policy.timeout_s) IS NOT NULL) THEN
               -- No later than now: a later moment plus the timeout could lie beyond the last year of Postgres.
               max(least(coalesce(held.begun_at, held.locked_at), queue_now())
                   + make_interval(secs => least(coalesce(held.timeout_s, policy.timeout_s), 1e9)))
           END AS until
    FROM lanes lane
    LEFT JOIN held ON held.lane = lane.id
    LEFT JOIN task_types policy ON policy.type = held.type
    WHERE lane.lease_until > queue_now() AND (lane.leave_requested OR lane.leaving_at IS NOT NULL)
    GROUP BY lane.id
)
SELECT queue_now() AS now,
       (SELECT count(*) FROM held WHERE suspicion > 0) AS suspects,
       late.tasks AS handed_over, late.since AS handed_over_since,
       (SELECT count(*) FROM (
           SELECT FROM tasks WHERE {often_interrupted} LIMIT :limit
       ) counted) AS interrupted,
       (SELECT coalesce(json_agg(leaving ORDER BY since, id), '[]') FROM leaving)::text AS leaving
FROM (
    SELECT count(*) AS tasks, min(locked_at) AS since FROM held
    WHERE begun_at IS NULL AND locked_at < queue_now() - make_interval(secs => :waits_long_s)
) late
