-- $1 lane, $2 bigint[] claims the lane knows of. Hands back what the table says the lane holds and the lane
-- does not: a claim whose answer was lost when the connection broke.
UPDATE tasks t
SET status = (CASE
        WHEN t.cancel_requested THEN 'cancelled'
        WHEN t.attempts > 1 THEN 'retry'
        ELSE 'queued' END)::taskstatus,
    attempts = greatest(t.attempts, 1) - 1,
    finished_at = CASE WHEN t.cancel_requested THEN queue_now() END,
    locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
WHERE t.locked_by = $1 AND t.status = 'running' AND t.claim <> ALL ($2::bigint[])
RETURNING t.id::text
