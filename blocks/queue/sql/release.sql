-- Hands claimed tasks back without charging the attempt. Without a cause no history is added: no handler had begun.
WITH released AS (
    UPDATE tasks t
    SET (status, error, finished_at) = (
            SELECT (CASE
                    WHEN t.cancel_requested THEN 'cancelled'
                    WHEN spent.it THEN 'failed'
                    WHEN t.attempts > 1 THEN 'retry'
                    ELSE 'queued' END)::taskstatus,
                CASE WHEN spent.it AND NOT t.cancel_requested
                    THEN format('interrupted %s times before it ended: %s', spent.times, :error::text)
                    ELSE t.error END,
                CASE WHEN spent.it OR t.cancel_requested THEN queue_now() END
            FROM (SELECT :cause::text IS NOT DISTINCT FROM 'interrupted' AND (counted.times >=
                      (SELECT max_interruptions FROM task_types policy WHERE policy.type = t.type)) IS TRUE, counted.times
                  FROM (SELECT least(t.interrupted, 2147483646) + 1) counted(times)) spent(it, times)
        ),
        attempts = greatest(t.attempts, 1) - 1,
        interrupted = least(t.interrupted, 2147483646) + (:cause::text IS NOT DISTINCT FROM 'interrupted')::int,
        suspicion = least(t.suspicion::int + :suspicion, 1000),
        locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[])) AS r(id, claim)
    WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
    RETURNING t.id, t.claim, t.attempts, t.status, t.handler_version
), history AS (
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, ended_at,
                               handler_version, resumed_step, reached_step, fraction)
    SELECT id, claim, attempts + 1, :lane, :cause, :error, queue_now(),
           handler_version, resumed_step, reached_step, fraction
    FROM released ended
    {attempt_reach}
    WHERE :cause::text IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT id::text, status::text FROM released
