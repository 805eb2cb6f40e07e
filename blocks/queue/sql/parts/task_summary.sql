-- The columns of a `TaskSummary`.
id, type, {shown_status} AS status, attempts, domain, created_at, finished_at, left(error, 10000) AS error
