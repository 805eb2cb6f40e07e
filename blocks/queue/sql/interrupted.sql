-- $1 limit: unfinished tasks that were interrupted more than twice, counted up to it
SELECT count(*) FROM (
    SELECT FROM tasks WHERE interrupted > 2 AND status IN ('queued', 'retry', 'running') LIMIT $1
) counted
