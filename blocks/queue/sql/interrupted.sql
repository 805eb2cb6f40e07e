-- Counts unfinished tasks that were interrupted more than twice.
-- $1 limit of the count.
SELECT count(*) FROM (
    SELECT FROM tasks WHERE interrupted > 2 AND status IN ('queued', 'retry', 'running') LIMIT $1
) counted
