-- $1 uuid[] ids, $2 bigint[] claims, $3 cause, $4 error, $5 suspicion, $6 lane
WITH released AS (
    UPDATE tasks t
    SET status = (CASE
            WHEN t.cancel_requested THEN 'cancelled'
            WHEN t.attempts > 1 THEN 'retry'
            ELSE 'queued' END)::taskstatus,
        attempts = t.attempts - 1,
        suspicion = greatest(t.suspicion, $5),
        finished_at = CASE WHEN t.cancel_requested THEN queue_now() END,
        locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS r(id, claim)
    WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
    RETURNING t.id, t.claim, t.attempts
), history AS (
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, ended_at)
    SELECT id, claim, attempts + 1, $6, $3, $4, queue_now() FROM released
)
SELECT id::text FROM released
