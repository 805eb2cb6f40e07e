-- Cancels tasks that wait. Marks tasks that run, and notifies their lane.
WITH chosen AS (
    SELECT id, status FROM tasks
    WHERE id = ANY (:ids::uuid[]) AND status IN ('created', 'queued', 'retry', 'running')
    ORDER BY id
    FOR UPDATE
), cancelled AS (
    UPDATE tasks t
    SET status = (CASE WHEN chosen.status = 'running' THEN 'running' ELSE 'cancelled' END)::taskstatus,
        finished_at = CASE WHEN chosen.status <> 'running' THEN queue_now() END,
        cancel_requested = chosen.status = 'running',
        updated_at = queue_now()
    FROM chosen WHERE t.id = chosen.id
    RETURNING t.id, t.status
), notified AS MATERIALIZED (
    SELECT pg_notify('organism_tasks', 'cancel') FROM cancelled WHERE status = 'running' LIMIT 1
)
SELECT id::text, status::text, (SELECT count(*) FROM notified) AS notified FROM cancelled
