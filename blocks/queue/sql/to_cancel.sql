-- Ids of unfinished tasks that match and have not been asked to stop, as pages of page.sql.
SELECT id
FROM tasks
WHERE {cancellable_filter}
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC
LIMIT :limit
