-- The columns of a `TaskSummary`.
id, type, status::text, attempts, domain, created_at, finished_at, left(error, 10000) AS error
