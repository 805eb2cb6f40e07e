-- Waiting tasks that have expired, those that did so first. In the words of the index tasks_expiring.
SELECT id FROM tasks
WHERE expires_at IS NOT NULL AND status IN ('created', 'queued', 'retry') AND expires_at <= queue_now()
ORDER BY expires_at LIMIT :limit
