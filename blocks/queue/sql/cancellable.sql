-- Counts what to_cancel.sql would find.
SELECT status::text, count(*) AS tasks
FROM tasks
WHERE {cancellable_filter}
GROUP BY status
