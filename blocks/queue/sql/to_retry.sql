-- Ids of failed and cancelled tasks that match, as pages of page.sql.
SELECT id
FROM tasks
WHERE {retriable_filter}
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC
LIMIT :limit
