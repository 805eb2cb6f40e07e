-- Counts unfinished tasks that were interrupted more than twice, up to a limit.
SELECT count(*) FROM (
    SELECT FROM tasks WHERE {often_interrupted} LIMIT :limit
) counted
