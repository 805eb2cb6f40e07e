-- Groups of dead letters: of one type, whose errors are the same but for ids, paths and numbers. Reads the newest only.
-- The time of the trend runs from the moment asked for, or the oldest dead letter that was read, to now.
WITH newest AS MATERIALIZED (
    SELECT id, type, domain, finished_at, error FROM tasks
    WHERE status = 'failed' AND finished_at IS NOT NULL AND finished_at >= coalesce(:since::timestamptz, '-infinity')
      AND finished_at <= queue_now()
    ORDER BY finished_at DESC LIMIT :limit
), span AS (
    SELECT count(*) AS read, greatest(coalesce(:since::timestamptz, min(finished_at) FILTER (
        WHERE (:type::text IS NULL OR type = :type) AND (:domain::text IS NULL OR domain = :domain))), 'epoch') AS began FROM newest
), named AS MATERIALIZED (
    SELECT n.id, n.type, n.finished_at, least(greatest(width_bucket(
               extract(epoch FROM n.finished_at)::float8, extract(epoch FROM span.began)::float8,
               extract(epoch FROM queue_now())::float8 + 0.001, :steps::int), 1), :steps::int) AS step,
           -- In this order: an id has numbers in it, and a path may have an id. \x01 to \x03 cannot be confused with
           -- what an error says, and are words when they are shown.
           regexp_replace(regexp_replace(regexp_replace(
               left(split_part(coalesce(n.error, ''), E'\n', 1), 300),
               '\m[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\M|\m0x[0-9a-fA-F]+\M|\m(?=[0-9a-f]*[0-9])[0-9a-f]{12,}\M',
               E'\x01', 'g'),
               '(?:[a-z]+://|/)[^\s''"<>,;:()]*/[^\s''"<>,;:()]+', E'\x02', 'g'),
               '\d+(?:[.,]\d+)*', E'\x03', 'g') AS said
    FROM newest n CROSS JOIN span
    WHERE (:type::text IS NULL OR n.type = :type) AND (:domain::text IS NULL OR n.domain = :domain)
), grouped AS (
    SELECT type, said, sum(tasks)::bigint AS tasks, min(first_at) AS first_at, max(last_at) AS last_at,
           jsonb_object_agg(step, tasks) AS steps, (array_agg(sample ORDER BY last_at DESC))[1] AS sample
    FROM (
        SELECT type, said, step, count(*) AS tasks, min(finished_at) AS first_at, max(finished_at) AS last_at,
               (array_agg(id ORDER BY finished_at DESC))[1] AS sample
        FROM named GROUP BY type, said, step
    ) stepped
    GROUP BY type, said
    ORDER BY tasks DESC, last_at DESC LIMIT :groups
)
SELECT span.read, span.began, queue_now() AS now, grouped.type, said, tasks, first_at, last_at, steps::text, sample,
       left(task.error, 2000) AS error
FROM span LEFT JOIN grouped ON true LEFT JOIN tasks task ON task.id = grouped.sample
ORDER BY tasks DESC NULLS LAST, last_at DESC
