-- As reap.sql, for these tasks only. Used when Postgres refuses to write another one.
WITH lost AS MATERIALIZED (
    SELECT id FROM lanes WHERE lease_until < queue_now() ORDER BY id FOR UPDATE SKIP LOCKED
), orphans AS MATERIALIZED (
    SELECT id, locked_by AS lane, locked_at AS started_at FROM tasks
    WHERE id = ANY (:ids::uuid[]) AND status = 'running'
      AND (locked_by IN (SELECT lost.id FROM lost) OR NOT EXISTS (SELECT FROM lanes WHERE lanes.id = locked_by))
    FOR UPDATE SKIP LOCKED
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
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at)
    SELECT id, claim, attempts + 1, lane, 'lease_lost', 'the lane stopped renewing its lease', started_at, queue_now()
    FROM reaped
    ON CONFLICT DO NOTHING
), ended AS (
    UPDATE lanes SET lease_until = 'epoch' WHERE id IN (SELECT lane FROM orphans) AND lease_until > 'epoch'
    RETURNING id
)
SELECT (SELECT count(*) FROM ended) AS lanes,
       count(*) FILTER (WHERE status <> 'failed') AS retried,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       coalesce(array_agg(id::text), '{}') AS ids, coalesce(array_agg(claim), '{}') AS claims
FROM reaped
