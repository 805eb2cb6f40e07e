-- Seconds until the first waiting task is due, of those whose type and domain are not paused; 0 or less: it is due. One
-- row for each type and priority, and one more for its tasks with a domain or key.
WITH RECURSIVE {waiting_pairs}
SELECT (extract(epoch FROM head.run_after) - extract(epoch FROM queue_now()))::float8 AS due_s
FROM pair CROSS JOIN LATERAL (
    (SELECT run_after FROM tasks
     WHERE status IN ('queued', 'retry') AND tasks.type = pair.type AND tasks.priority = pair.priority
       AND coalesce(domain, '') = '' AND coalesce(key, '') = ''
     ORDER BY run_after, id LIMIT 1)
    UNION ALL
    (SELECT run_after FROM tasks
     WHERE status IN ('queued', 'retry') AND tasks.type = pair.type AND tasks.priority = pair.priority
       AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '')
       AND (domain IS NULL OR domain <> ALL (ARRAY(SELECT name FROM pauses WHERE kind = 'domain')))
     ORDER BY run_after LIMIT 1)
) head
WHERE pair.type <> ALL (ARRAY(SELECT name FROM pauses WHERE kind = 'type'))
