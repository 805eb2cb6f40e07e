-- Takes the tasks of lanes whose lease has ended back into the queue, without charging the attempt. A task that has
-- lost as many leases as it may becomes a dead letter. Strays are tasks whose holder is not a lane.
WITH RECURSIVE lost AS MATERIALIZED (
    -- A lane that is claiming holds this row. Skipping it leaves it to the next reap.
    SELECT id FROM lanes WHERE lease_until < queue_now() ORDER BY id FOR UPDATE SKIP LOCKED
), holder AS (
    -- Jumps from holder to holder in the index. Only SQL of the user makes a holder that is not a lane.
    (SELECT locked_by AS id FROM tasks WHERE :strays AND locked_by IS NOT NULL ORDER BY locked_by LIMIT 1)
    UNION ALL
    SELECT following.id FROM holder CROSS JOIN LATERAL (
        SELECT locked_by AS id FROM tasks WHERE locked_by > holder.id ORDER BY locked_by LIMIT 1
    ) following
), dead AS MATERIALIZED (
    SELECT id FROM lost
    UNION
    SELECT id FROM holder WHERE NOT EXISTS (SELECT FROM lanes WHERE lanes.id = holder.id)
), orphans AS MATERIALIZED (
    -- A task that is being settled is locked: its settlement goes first, and wins. A row that has changed since our
    -- snapshot is checked again by its own columns, and a lane never takes the name of another.
    -- LATERAL, because the planner may turn a join into a scan of the table.
    SELECT held.*
    FROM dead CROSS JOIN LATERAL (
        SELECT id, locked_by AS lane, locked_at AS started_at
        FROM tasks WHERE locked_by = dead.id AND status = 'running'
        FOR UPDATE SKIP LOCKED
    ) held
), reaped AS (
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
    RETURNING t.id, t.claim, t.attempts, t.status, held.lane, held.started_at
), history AS (
    -- Two reapers may meet on a task that no lane holds. The row of the first stays.
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at)
    SELECT id, claim, attempts + 1, lane, 'lease_lost', 'the lane stopped renewing its lease', started_at, queue_now()
    FROM reaped
    ON CONFLICT DO NOTHING
), ended AS (
    -- The row stays until no task is held under its name: a claim may have been committed since our snapshot.
    UPDATE lanes SET lease_until = 'epoch' WHERE id IN (SELECT id FROM lost) AND lease_until > 'epoch'
    RETURNING id
), gone AS (
    DELETE FROM lanes l WHERE l.id IN (SELECT id FROM lost) AND l.lease_until = 'epoch'
        AND NOT EXISTS (SELECT FROM tasks t WHERE t.locked_by = l.id)
), counted AS (
    -- A reap that finds nothing, as nearly all do, writes no row. Lanes do not report counters of these names:
    -- otherwise lanes that leave at the same time could lock the rows in another order.
    INSERT INTO lane_totals AS total (name, value)
    SELECT loss.name, loss.number
    FROM (VALUES ('lanes_lost', (SELECT count(*) FROM ended)),
                 ('leases_lost', (SELECT count(*) FROM reaped)),
                 ('reaped.cancelled', (SELECT count(*) FROM reaped WHERE status = 'cancelled')),
                 ('reaped.failed', (SELECT count(*) FROM reaped WHERE status = 'failed')))
        AS loss(name, number)
    WHERE loss.number > 0 ORDER BY loss.name
    ON CONFLICT (name) DO UPDATE SET value = least(total.value, 1e300) + excluded.value
)
SELECT (SELECT count(*) FROM ended) AS lanes,
       count(*) FILTER (WHERE status <> 'failed') AS retried,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       -- The handlers of these tasks may still run: the caller has them stopped.
       coalesce(array_agg(id::text), '{}') AS ids, coalesce(array_agg(claim), '{}') AS claims
FROM reaped
