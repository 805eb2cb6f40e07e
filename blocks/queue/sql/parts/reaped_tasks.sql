-- Takes the tasks of the CTE orphans back into the queue, and adds to their history.
reaped AS (
    UPDATE tasks t
    SET status = (CASE
            WHEN t.cancel_requested THEN 'cancelled'
            WHEN t.lease_lost >= :max_leases - 1 THEN 'failed'
            ELSE 'retry' END)::taskstatus,
        lease_lost = least(t.lease_lost, 2147483646) + 1,
        attempts = greatest(t.attempts, 1) - 1,
        error = CASE WHEN t.lease_lost >= :max_leases - 1
            THEN format('lease lost %s times: every lane that held this task died', least(t.lease_lost, 2147483646) + 1)
            ELSE t.error END,
        finished_at = CASE WHEN t.cancel_requested OR t.lease_lost >= :max_leases - 1 THEN queue_now() END,
        locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    FROM orphans held
    WHERE t.id = held.id
    RETURNING t.id, t.claim, t.attempts, t.status, t.handler_version, held.lane, held.started_at
), history AS (
    -- Two reapers may meet on a task that no lane holds. The row of the first stays.
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at,
                               handler_version, resumed_step, reached_step, fraction)
    SELECT id, claim, attempts + 1, lane, 'lease_lost', 'the lane stopped renewing its lease', started_at, queue_now(),
           handler_version, resumed_step, reached_step, fraction
    FROM reaped ended
    {attempt_reach}
    ON CONFLICT DO NOTHING
)
