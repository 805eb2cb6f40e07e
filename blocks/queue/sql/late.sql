-- How many waiting tasks of each type expire before they can begin, in whatever order they are claimed: if more expire by
-- a moment than the type completes until then, at its rate, the others are late. Of the first tasks to expire, and with the
-- rates of the newest that completed within five minutes. In the words of the index tasks_expiring.
WITH completed AS (
    SELECT type, finished_at FROM tasks
    WHERE status = 'completed' AND finished_at > queue_now() - interval '5 minutes' AND finished_at <= queue_now()
    ORDER BY finished_at DESC LIMIT 2000
), rates AS (
    SELECT type, count(*) / greatest(1, (SELECT extract(epoch FROM queue_now() - min(finished_at)) FROM completed)) AS rate
    FROM completed GROUP BY type
), expiring AS (
    SELECT type, extract(epoch FROM expires_at - queue_now()) AS left_s,
           row_number() OVER (PARTITION BY type ORDER BY expires_at) AS number
    FROM (
        SELECT type, expires_at FROM tasks
        WHERE expires_at IS NOT NULL AND status IN ('created', 'queued', 'retry')
          AND expires_at > queue_now() AND expires_at < 'infinity'
        ORDER BY expires_at LIMIT :limit
    ) first
)
SELECT type, greatest(0, ceil(max(number - rate * left_s)))::bigint AS tasks
FROM expiring JOIN rates USING (type) GROUP BY type ORDER BY type
