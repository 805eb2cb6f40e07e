-- Makes a task that cannot be claimed a dead letter.
-- $1 id, $2 error.
UPDATE tasks SET status = 'failed', error = $2, finished_at = queue_now(), updated_at = queue_now()
WHERE id = $1 AND status IN ('queued', 'retry')
RETURNING id
