-- Counts dead letters up to a limit: there may be millions.
SELECT count(*) FROM (SELECT FROM tasks WHERE status = 'failed' AND finished_at IS NOT NULL LIMIT :limit) counted
