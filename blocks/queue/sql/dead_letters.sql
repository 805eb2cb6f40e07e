-- Counts dead letters, up to $1: there may be millions.
SELECT count(*) FROM (SELECT FROM tasks WHERE status = 'failed' AND finished_at IS NOT NULL LIMIT $1) counted
