-- Hands back the tasks that a lane holds in the table without knowing: the answer to their claim was lost with its
-- connection.
UPDATE tasks t
SET status = (CASE
        WHEN t.cancel_requested THEN 'cancelled'
        WHEN t.attempts > 1 THEN 'retry'
        ELSE 'queued' END)::taskstatus,
    attempts = greatest(t.attempts, 1) - 1,
    finished_at = CASE WHEN t.cancel_requested THEN queue_now() END,
    locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
WHERE t.locked_by = :lane AND t.status = 'running' AND t.claim <> ALL (:known_claims::bigint[])
RETURNING t.id::text
