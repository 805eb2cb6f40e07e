-- The lines whose first task is due, those that have waited longest first, with what has run meanwhile: tasks of the
-- line, of other lines of its type and priority, and of other types of its priority. Reads of each type and priority
-- the lines that are first by domain and key, and those of the tasks that are due first; so the cost is bounded.
WITH RECURSIVE {waiting_pairs}, known AS MATERIALIZED (
    -- The limit ends the jumps.
    SELECT * FROM pair LIMIT :pairs
), share AS (
    SELECT greatest(:lines::bigint / greatest(count(*), 1), 20) AS most FROM known
), walked AS (
    SELECT known.type, known.priority, first.domain, first.key, first.run_after, first.created_at, 1 AS number
    FROM known CROSS JOIN LATERAL (
        SELECT coalesce(domain, '') AS domain, coalesce(key, '') AS key, run_after, created_at FROM tasks
        WHERE status IN ('queued', 'retry') AND tasks.type = known.type AND tasks.priority = known.priority
        ORDER BY coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1
    ) first
    UNION ALL
    SELECT walked.type, walked.priority, following.*, walked.number + 1
    FROM walked CROSS JOIN LATERAL (
        SELECT coalesce(domain, ''), coalesce(key, ''), run_after, created_at FROM tasks
        WHERE status IN ('queued', 'retry') AND tasks.type = walked.type AND tasks.priority = walked.priority
          AND (coalesce(domain, ''), coalesce(key, '')) > (walked.domain, walked.key)
        ORDER BY coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1
    ) following
    WHERE walked.number < (SELECT most FROM share)
), first_due AS (
    SELECT DISTINCT ON (type, priority, domain, key) known.type, known.priority, one.*
    FROM known CROSS JOIN LATERAL (
        SELECT coalesce(domain, '') AS domain, coalesce(key, '') AS key, run_after, created_at FROM tasks
        WHERE status IN ('queued', 'retry') AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '')
          AND tasks.type = known.type AND tasks.priority = known.priority
        ORDER BY run_after LIMIT (SELECT most FROM share)
    ) one
    ORDER BY type, priority, domain, key, run_after
), line AS MATERIALIZED (
    SELECT type, priority, domain, key, since, coalesce(weight, 1) AS weight
    FROM (
        SELECT type, priority, domain, key,
               greatest(min(run_after), least(min(created_at), queue_now()), 'epoch') AS since
        FROM (SELECT type, priority, domain, key, run_after, created_at FROM walked
              UNION ALL SELECT type, priority, domain, key, run_after, created_at FROM first_due) head
        WHERE run_after <= queue_now()
        GROUP BY 1, 2, 3, 4
    ) one
    LEFT JOIN key_weights USING (key)
    WHERE NOT EXISTS (SELECT FROM pauses WHERE (kind, name) IN (('type', type), ('domain', domain)))
      AND NOT EXISTS (SELECT FROM closures
                      WHERE kind = 'type' AND name = type AND closures.key = one.key AND until > queue_now())
    ORDER BY since LIMIT :lines
), ran AS MATERIALIZED (
    SELECT type, priority, domain, key, count(*) AS tasks
    FROM (
        -- Some of every part of the time: all that ended may be millions. The other end of a part is not asked for in
        -- the index: where the planner expects few tasks in it, it reads all of them to sort them.
        SELECT type, priority, domain, key FROM generate_series(0, 29) part CROSS JOIN LATERAL (
            SELECT type, priority, coalesce(domain, '') AS domain, coalesce(key, '') AS key, finished_at FROM tasks
            WHERE status = 'completed' AND finished_at <= queue_now() - make_interval(secs => :after_s * part / 30)
            ORDER BY finished_at DESC LIMIT :ended / 30
        ) newest
        WHERE finished_at > queue_now() - make_interval(secs => :after_s * (part + 1) / 30)
        UNION ALL
        (SELECT held.* FROM lanes CROSS JOIN LATERAL (
             -- LATERAL and OFFSET: the planner may turn a join into a scan of the table.
             SELECT type, priority, coalesce(domain, ''), coalesce(key, '') FROM tasks
             WHERE locked_by = lanes.id AND status = 'running'
             OFFSET 0
         ) held
         LIMIT :held)
    ) one
    GROUP BY 1, 2, 3, 4
), busiest AS (
    SELECT type, priority, max(tasks::float8 / coalesce(weight, 1)) AS share, sum(tasks) AS tasks
    FROM ran LEFT JOIN key_weights USING (key)
    GROUP BY 1, 2
)
SELECT line.type, line.priority, line.domain, line.key,
       (extract(epoch FROM queue_now()) - extract(epoch FROM since))::float8 AS waits_s,
       coalesce(ran.tasks, 0) AS ran,
       -- As many would have been its own if it had had its turns.
       coalesce(busiest.share * line.weight, 0) AS fair,
       coalesce(busiest.tasks, 0) AS of_type,
       coalesce((SELECT sum(tasks) FROM busiest others WHERE others.priority = line.priority), 0)::bigint AS of_priority
FROM line
LEFT JOIN ran ON (ran.type, ran.priority, ran.domain, ran.key) = (line.type, line.priority, line.domain, line.key)
LEFT JOIN busiest ON (busiest.type, busiest.priority) = (line.type, line.priority)
ORDER BY since
