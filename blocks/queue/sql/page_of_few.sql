-- As page.sql, where few tasks have the statuses asked for: reads all of these by the indexes of statuses, and sorts
-- them. page.sql would read past all others.
SELECT {task_summary}
FROM (
    (SELECT * FROM tasks WHERE :statuses::text[] && '{waiting,queued,retry}' AND status IN ('queued', 'retry')
     ORDER BY type, priority LIMIT :few)
    UNION ALL
    (SELECT * FROM tasks WHERE 'running' = ANY (:statuses::text[]) AND locked_by IS NOT NULL AND status = 'running'
     ORDER BY locked_by LIMIT :few)
    UNION ALL
    (SELECT * FROM tasks WHERE 'failed' = ANY (:statuses::text[]) AND status = 'failed' AND finished_at IS NOT NULL
     ORDER BY finished_at DESC LIMIT :few)
    UNION ALL
    (SELECT * FROM tasks WHERE 'cancelled' = ANY (:statuses::text[]) AND status = 'cancelled' AND finished_at IS NOT NULL
     ORDER BY finished_at DESC LIMIT :few)
) tasks
WHERE {task_filter}
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC
LIMIT :limit
