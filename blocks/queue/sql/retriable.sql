-- Counts what to_retry.sql would find.
SELECT status::text, count(*) AS tasks
FROM tasks
WHERE {retriable_filter}
GROUP BY status
