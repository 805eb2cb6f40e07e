-- $1 most leases a task may lose. Takes the tasks of lanes whose lease is past, and running tasks that no
-- lane holds, back into the queue with their attempt uncharged.
WITH lost AS MATERIALIZED (
    -- A lane that is claiming holds this row; skipping it leaves it to the next reap.
    SELECT id FROM lanes WHERE lease_until < queue_now() ORDER BY id FOR UPDATE SKIP LOCKED
), candidates AS MATERIALIZED (
    SELECT t.id, t.claim, t.locked_by AS lane, t.locked_at AS started_at FROM tasks t
    WHERE t.status = 'running'
      AND (t.locked_by IN (SELECT id FROM lost)
           OR t.locked_by IS NULL
           OR NOT EXISTS (SELECT FROM lanes l WHERE l.id = t.locked_by))
), orphans AS MATERIALIZED (
    -- A task being settled is locked: its settlement goes first, and wins. The claim is compared because a
    -- row that changed since our snapshot is judged anew, and by now a lane this snapshot cannot see may
    -- have claimed it.
    SELECT t.id, c.lane, c.started_at FROM tasks t JOIN candidates c ON c.id = t.id AND c.claim = t.claim
    WHERE t.status = 'running'
    ORDER BY t.id
    FOR UPDATE OF t SKIP LOCKED
), reaped AS (
    UPDATE tasks t
    SET status = (CASE WHEN t.lease_lost + 1 >= $1 THEN 'failed' ELSE 'retry' END)::taskstatus,
        lease_lost = t.lease_lost + 1,
        attempts = greatest(t.attempts - 1, 0),
        error = CASE WHEN t.lease_lost + 1 >= $1
            THEN format('lease lost %s times: every lane that held this task died', t.lease_lost + 1)
            ELSE t.error END,
        finished_at = CASE WHEN t.lease_lost + 1 >= $1 THEN queue_now() END,
        locked_by = NULL, locked_at = NULL, updated_at = queue_now()
    FROM orphans held
    WHERE t.id = held.id
    RETURNING t.id, t.claim, t.attempts, t.status, held.lane, held.started_at
), history AS (
    -- Two reapers may meet on a task that no lane holds; the row of the first stands.
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at)
    SELECT id, claim, attempts + 1, lane, 'lease_lost', 'the lane stopped renewing its lease', started_at, queue_now()
    FROM reaped
    ON CONFLICT DO NOTHING
), gone AS (
    DELETE FROM lanes WHERE id IN (SELECT id FROM lost) RETURNING id
)
SELECT (SELECT count(*) FROM gone) AS lanes,
       count(*) FILTER (WHERE status = 'retry') AS retried,
       count(*) FILTER (WHERE status = 'failed') AS failed
FROM reaped
