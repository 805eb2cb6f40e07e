SELECT id, type, {shown_status} AS status, result::text, error, attempts, created_at, finished_at, elapsed_ms
FROM tasks WHERE domain = :domain
