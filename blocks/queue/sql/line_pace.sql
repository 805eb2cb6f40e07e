-- What the line of a task has done lately: when tasks of it began and since when they were due, in seconds before now.
-- Of the tasks that ended, reads the newest of all lines: no index has the line of a task that has ended.
WITH newest AS MATERIALIZED (
    -- Without the time: where the planner expects few tasks in it, it reads all of them to sort them.
    (SELECT status, type, priority, domain, key, finished_at, run_after, created_at, elapsed_ms FROM tasks
     WHERE status = 'completed' AND finished_at IS NOT NULL
     ORDER BY finished_at DESC LIMIT :read)
    UNION ALL
    (SELECT status, type, priority, domain, key, finished_at, run_after, created_at, elapsed_ms FROM tasks
     WHERE status = 'failed' AND finished_at IS NOT NULL
     ORDER BY finished_at DESC LIMIT :read)
), ended AS (
    SELECT run_after, created_at, least(greatest(coalesce(elapsed_ms, 0), 0), 1e9) / 1000 AS took_s,
           -- NaN is the greatest number.
           finished_at - make_interval(secs => least(greatest(coalesce(elapsed_ms, 0), 0), 1e9) / 1000) AS began
    FROM newest
    WHERE type = :type AND priority = :priority AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key
      AND finished_at > queue_now() - make_interval(secs => :window_s) AND finished_at <= queue_now()
), held AS MATERIALIZED (
    SELECT one.*
    FROM lanes CROSS JOIN LATERAL (
        -- LATERAL and OFFSET: the planner may turn a join into a scan of the table.
        SELECT CASE WHEN begun_at >= locked_at THEN begun_at END AS began, run_after, created_at
        FROM tasks
        WHERE locked_by = lanes.id AND status = 'running' AND type = :type AND priority = :priority
          AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key
        OFFSET 0
    ) one
    WHERE lanes.lease_until > queue_now()
), begun AS (
    SELECT (extract(epoch FROM queue_now()) - extract(epoch FROM began))::float8 AS began,
           (extract(epoch FROM queue_now()) - extract(epoch FROM greatest(run_after, created_at, 'epoch')))::float8 AS due
    FROM (
        SELECT began, run_after, created_at FROM ended
        UNION ALL
        SELECT * FROM held WHERE began IS NOT NULL
    ) known
    WHERE began <= queue_now()
    ORDER BY began DESC LIMIT :most
)
SELECT coalesce((SELECT array_agg(began ORDER BY began) FROM begun), '{}') AS began,
       coalesce((SELECT array_agg(due ORDER BY began) FROM begun), '{}') AS due,
       -- How far back all of them are known.
       least(:window_s::float8,
             (SELECT extract(epoch FROM queue_now()) - extract(epoch FROM max(oldest))
              FROM (SELECT min(finished_at) AS oldest FROM newest GROUP BY status HAVING count(*) = :read) cut_off),
             (SELECT max(began) FROM begun HAVING count(*) = :most))::float8 AS known_s,
       (SELECT count(*) FROM held WHERE began IS NULL) AS held,
       coalesce((SELECT avg(took_s) FROM ended), 0)::float8 AS took_s,
       coalesce((
           SELECT extract(epoch FROM queue_now()) - extract(epoch FROM greatest(run_after, created_at, 'epoch'))
           FROM tasks
           WHERE status IN ('queued', 'retry') AND type = :type AND priority = :priority
             AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key
           ORDER BY run_after, id LIMIT 1
       ), 0)::float8 AS waits_s
