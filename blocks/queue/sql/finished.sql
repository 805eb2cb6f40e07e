-- $1 domain
SELECT count(*) FROM tasks WHERE domain = $1 AND finished_at IS NOT NULL
