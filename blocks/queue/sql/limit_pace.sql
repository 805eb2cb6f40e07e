-- For how long each task that counts against a limit on what runs has run, and how long tasks of its types took lately,
-- in seconds.
SELECT coalesce((
           SELECT array_agg((extract(epoch FROM queue_now()) - extract(epoch FROM since))::float8)
           FROM (
               SELECT one.since
               FROM lanes CROSS JOIN LATERAL (
                   -- LATERAL and OFFSET: the planner may turn a join into a scan of the table.
                   SELECT CASE WHEN begun_at >= locked_at THEN begun_at ELSE locked_at END AS since
                   FROM tasks
                   WHERE locked_by = lanes.id AND status = 'running'
                     AND (limits.types = '{}' OR type = ANY (limits.types)) AND (NOT limits.by_key OR coalesce(key, '') = :key)
                   OFFSET 0
               ) one
               LIMIT :held
           ) held
       ), '{}') AS ages,
       coalesce((
           SELECT array_agg(elapsed_ms::float8 / 1000)
           FROM (
               SELECT elapsed_ms FROM (
                   SELECT type, elapsed_ms, finished_at FROM tasks
                   WHERE status = 'completed' AND finished_at IS NOT NULL
                   ORDER BY finished_at DESC LIMIT :read
               ) newest
               WHERE finished_at > queue_now() - make_interval(secs => :window_s)
                 AND (limits.types = '{}' OR type = ANY (limits.types)) AND elapsed_ms >= 0 AND elapsed_ms < 'Infinity'
               LIMIT :most
           ) took
       ), '{}') AS durations
FROM limits WHERE name = :name
