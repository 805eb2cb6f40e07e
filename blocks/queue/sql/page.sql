-- A page of tasks, in descending order of their ids. Ids have an index. created_at has none, because every claim and
-- settlement would have to write it.
SELECT {task_summary}
FROM tasks
WHERE {task_filter}
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC
LIMIT :limit
