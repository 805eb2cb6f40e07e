-- Settles tasks that did not complete; complete.sql has the others. The retry rules of the organs, one per task, may be
-- NULL: then the default counts. The task's own and those of its type go first.
WITH reported AS (
    SELECT t.id, r.claim, r.cause, r.error, r.path, r.organ_id, r.elapsed_ms, r.log, r.version,
        CASE
            WHEN r.cause = 'cancelled' OR t.cancel_requested THEN 'cancelled'
            WHEN r.cause = 'rejected'
                OR t.attempts >= coalesce(t.max_attempts, policy.max_attempts, r.max_attempts, :default_max_attempts)
                THEN 'failed'
            ELSE 'retry'
        END::taskstatus AS status,
        -- Half the delay is fixed and half is random, so that tasks that failed together do not return together. All
        -- values are bounded, because Postgres raises errors where others return infinity or zero: 2^1024, 1e-320 / 2,
        -- an interval of 1e15 s.
        make_interval(secs => (0.5 + random() / 2) * least(
            least(greatest(coalesce(policy.backoff_cap_s, r.backoff_cap_s, :default_backoff_cap_s), 1e-6), 1e9),
            least(greatest(coalesce(policy.backoff_base_s, r.backoff_base_s, :default_backoff_base_s), 1e-6), 1e9)
                * 2.0 ^ least(greatest(t.attempts, 1) - 1, 60))) AS backoff
    FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[]), (SELECT :causes::text[]), (SELECT :errors::text[]),
                (SELECT :paths::text[]), (SELECT :organ_ids::text[]), (SELECT :elapsed_ms::real[]),
                (SELECT :max_attempts::int[]), (SELECT :backoff_base_s::float8[]), (SELECT :backoff_cap_s::float8[]),
                (SELECT :logs::text[]), (SELECT :versions::text[]))
        AS r(id, claim, cause, error, path, organ_id, elapsed_ms, max_attempts, backoff_base_s, backoff_cap_s, log,
             version)
    JOIN tasks t ON t.id = r.id
    LEFT JOIN task_types policy ON policy.type = t.type
    -- The fence: a holder whose claim is not the newest changes nothing. Checked under the lock, because a cancel may
    -- come in between.
    WHERE t.claim = r.claim AND t.status = 'running'
    ORDER BY t.id
    FOR UPDATE OF t
), settled AS (
    UPDATE tasks t
    SET status = r.status,
        result = NULL,
        error = r.error,
        timed_out = least(t.timed_out, 2147483646) + (r.cause = 'timed_out')::int,
        suspicion = CASE WHEN r.cause = 'rejected' THEN 0 ELSE t.suspicion END,
        run_after = CASE WHEN r.status = 'retry' THEN queue_now() + r.backoff ELSE t.run_after END,
        finished_at = CASE WHEN r.status <> 'retry' THEN queue_now() END,
        elapsed_ms = r.elapsed_ms, organ_id = r.organ_id, path = r.path, log = r.log,
        handler_version = coalesce(r.version, t.handler_version),
        locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    FROM reported r
    WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
    RETURNING t.id, t.claim, t.attempts, t.status, r.cause, r.error, r.elapsed_ms, r.log, t.handler_version
), history AS (
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at, log,
                               handler_version, resumed_step, reached_step, fraction)
    SELECT id, claim, attempts, :lane, cause, error,
           queue_now() - make_interval(secs => elapsed_ms / 1000), queue_now(), log,
           handler_version, resumed_step, reached_step, fraction
    FROM settled ended
    {attempt_reach}
    ON CONFLICT DO NOTHING
)
SELECT id::text, status::text FROM settled
