-- Counts unfinished tasks that were interrupted more than twice, up to a limit.
SELECT count(*) FROM (
    SELECT FROM tasks WHERE interrupted > 2 AND status IN ('queued', 'retry', 'running') LIMIT :limit
) counted
