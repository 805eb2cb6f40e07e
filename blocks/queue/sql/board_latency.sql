-- How long the newest tasks that completed within the last hour took, by type, and all together (type NULL, all_types):
-- from their creation to their end, and in their handler. In milliseconds.
SELECT type, grouping(type) = 1 AS all_types, count(*) AS tasks,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY total_ms) AS total_ms,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY handler_ms) AS handler_ms
FROM (
    SELECT type,
           ((extract(epoch FROM finished_at) - extract(epoch FROM greatest(created_at, 'epoch'))) * 1000)::float8
               AS total_ms,
           CASE WHEN elapsed_ms >= 0 AND elapsed_ms < 'Infinity' THEN elapsed_ms::float8 END AS handler_ms
    FROM tasks
    WHERE status = 'completed' AND finished_at > queue_now() - interval '1 hour' AND finished_at <= queue_now()
    ORDER BY finished_at DESC LIMIT :limit
) newest
GROUP BY GROUPING SETS ((type), ())
HAVING count(*) > 0
ORDER BY count(*) DESC
LIMIT 500
