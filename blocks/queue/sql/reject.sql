-- Makes a task that cannot be claimed a dead letter.
UPDATE tasks SET status = 'failed', error = :error, finished_at = queue_now(), updated_at = queue_now()
WHERE id = :id AND status IN ('queued', 'retry')
RETURNING id
