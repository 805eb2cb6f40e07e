-- How many tasks have these statuses, counted in the indexes of statuses up to a limit for each.
SELECT count(*) FROM (
    (SELECT FROM tasks WHERE :statuses::text[] && '{waiting,queued,retry}' AND status IN ('queued', 'retry')
     ORDER BY type, priority LIMIT :limit)
    UNION ALL
    (SELECT FROM tasks WHERE 'running' = ANY (:statuses::text[]) AND locked_by IS NOT NULL AND status = 'running'
     ORDER BY locked_by LIMIT :limit)
    UNION ALL
    (SELECT FROM tasks WHERE 'failed' = ANY (:statuses::text[]) AND status = 'failed' AND finished_at IS NOT NULL
     ORDER BY finished_at DESC LIMIT :limit)
    UNION ALL
    (SELECT FROM tasks WHERE 'cancelled' = ANY (:statuses::text[]) AND status = 'cancelled' AND finished_at IS NOT NULL
     ORDER BY finished_at DESC LIMIT :limit)
) counted
