-- The newest dead letters by type, and by domain, with those of the last hour.
SELECT type, domain, grouping(type) = 1 AS by_domain, count(*) AS dead,
       count(*) FILTER (WHERE finished_at > queue_now() - interval '1 hour') AS last_hour
FROM (
    SELECT type, domain, finished_at FROM tasks
    WHERE status = 'failed' AND finished_at IS NOT NULL
    ORDER BY finished_at DESC LIMIT :limit
) newest
GROUP BY GROUPING SETS ((type), (domain))
ORDER BY count(*) DESC
LIMIT 1000
