-- Counts what to_cancel.sql would find.
SELECT {shown_status} AS status, count(*) AS tasks
FROM tasks
WHERE {cancellable_filter}
GROUP BY 1
