-- The waiting tasks of each type, and for how long the oldest has waited. It is found in the indexes of lines. Ready
-- tasks are counted only up to a limit, because a backlog may be millions.
WITH RECURSIVE {waiting_pairs}
SELECT pair.type, sum(waiting.ready)::bigint AS ready,
       max(extract(epoch FROM queue_now())
           - extract(epoch FROM greatest(waiting.run_after, least(waiting.created_at, queue_now()), 'epoch')))::float8 AS oldest_s
FROM pair CROSS JOIN LATERAL (
    (SELECT run_after, created_at,
            (SELECT count(*) FROM (
                SELECT FROM tasks WHERE status IN ('queued', 'retry') AND tasks.type = pair.type
                    AND tasks.priority = pair.priority AND coalesce(domain, '') = '' AND coalesce(key, '') = ''
                    AND run_after <= queue_now() LIMIT :limit) counted) AS ready
     FROM tasks
     WHERE status IN ('queued', 'retry') AND tasks.type = pair.type AND tasks.priority = pair.priority
       AND coalesce(domain, '') = '' AND coalesce(key, '') = '' AND run_after <= queue_now()
     ORDER BY run_after, id LIMIT 1)
    UNION ALL
    (SELECT run_after, created_at,
            (SELECT count(*) FROM (
                SELECT FROM tasks WHERE status IN ('queued', 'retry') AND tasks.type = pair.type
                    AND tasks.priority = pair.priority AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '')
                    AND run_after <= queue_now() LIMIT :limit) counted) AS ready
     FROM tasks
     WHERE status IN ('queued', 'retry') AND tasks.type = pair.type AND tasks.priority = pair.priority
       AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '') AND run_after <= queue_now()
     ORDER BY run_after LIMIT 1)
) waiting
GROUP BY pair.type
ORDER BY oldest_s DESC NULLS LAST
