-- $1 uuid[] ids, $2 bigint[] claims, $3 cause, or NULL: no handler had begun, and history has nothing to say,
-- $4 error, $5 by how much they become more suspect, $6 lane
WITH released AS (
    UPDATE tasks t
    SET status = (CASE
            WHEN t.cancel_requested THEN 'cancelled'
            WHEN spent.interruptions THEN 'failed'
            WHEN t.attempts > 1 THEN 'retry'
            ELSE 'queued' END)::taskstatus,
        attempts = t.attempts - 1,
        interrupted = t.interrupted + ($3 IS NOT DISTINCT FROM 'interrupted')::int,
        suspicion = least(t.suspicion + $5, 1000),
        error = CASE WHEN spent.interruptions AND NOT t.cancel_requested
            THEN format('interrupted %s times before it ended: %s', t.interrupted + 1, $4::text) ELSE t.error END,
        finished_at = CASE WHEN t.cancel_requested OR spent.interruptions THEN queue_now() END,
        locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    FROM (
        SELECT task.id, task.claim,
               $3 IS NOT DISTINCT FROM 'interrupted' AND task.interrupted + 1 >= policy.max_interruptions IS TRUE
                   AS interruptions
        FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS r(id, claim)
        JOIN tasks task ON task.id = r.id AND task.claim = r.claim AND task.status = 'running'
        LEFT JOIN task_types policy ON policy.type = task.type
    ) spent
    WHERE t.id = spent.id AND t.claim = spent.claim AND t.status = 'running'
    RETURNING t.id, t.claim, t.attempts, t.status
), history AS (
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, ended_at)
    SELECT id, claim, attempts + 1, $6, $3, $4, queue_now() FROM released WHERE $3::text IS NOT NULL
)
SELECT id::text, status::text FROM released
