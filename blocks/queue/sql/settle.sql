-- $1 uuid[] ids, $2 bigint[] claims, $3 text[] causes, $4 text[] results, $5 text[] errors, $6 text[] paths,
-- $7 text[] organ ids, $8 real[] elapsed ms, $9 backoff base in seconds, $10 backoff cap in seconds, $11 lane
WITH reported AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::real[])
        AS r(id, claim, cause, result, error, path, organ_id, elapsed_ms)
), settled AS (
    UPDATE tasks t
    SET status = (CASE
            WHEN r.cause = 'completed' THEN 'completed'
            WHEN r.cause = 'rejected' OR t.attempts >= t.max_attempts THEN 'failed'
            ELSE 'retry' END)::taskstatus,
        result = r.result::jsonb,
        error = r.error,
        timed_out = t.timed_out + (r.cause = 'timed_out')::int,
        suspicion = CASE WHEN r.cause IN ('completed', 'rejected') THEN 0 ELSE t.suspicion END,
        run_after = CASE
            WHEN r.cause IN ('completed', 'rejected') OR t.attempts >= t.max_attempts THEN t.run_after
            -- Half the delay is fixed and half is chance, so that tasks that failed together come back apart.
            -- The exponent is bounded because 2^1024 is an error, not infinity.
            ELSE queue_now() + make_interval(secs =>
                least($10, $9 * 2.0 ^ least(t.attempts - 1, 60)) * (0.5 + random() / 2)) END,
        finished_at = CASE
            WHEN r.cause IN ('completed', 'rejected') OR t.attempts >= t.max_attempts THEN queue_now() END,
        elapsed_ms = r.elapsed_ms, organ_id = r.organ_id, path = r.path,
        locked_by = NULL, locked_at = NULL, updated_at = queue_now()
    FROM reported r
    -- The fence: a holder whose claim is not the newest changes nothing.
    WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
    RETURNING t.id, t.claim, t.attempts, t.status, r.cause, r.error, r.elapsed_ms
), history AS (
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at)
    SELECT s.id, s.claim, s.attempts, $11, s.cause, s.error,
           queue_now() - make_interval(secs => s.elapsed_ms / 1000), queue_now()
    FROM settled s WHERE s.cause <> 'completed'
)
SELECT id::text, status::text FROM settled
