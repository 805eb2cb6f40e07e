-- Makes waiting tasks that have expired dead letters.
WITH late AS MATERIALIZED (
    SELECT id, ctid AS place, status FROM tasks
    WHERE id = ANY (:ids::uuid[]) AND status IN ('created', 'queued', 'retry') AND expires_at <= queue_now()
    FOR UPDATE SKIP LOCKED
), expired AS (
    UPDATE tasks t
    SET status = 'failed', finished_at = queue_now(), updated_at = queue_now(),
        error = CASE WHEN t.status = 'retry' AND t.error IS NOT NULL
            THEN format('expired before it was tried again: %s', t.error)
            ELSE 'expired before it began' END
    WHERE t.ctid = ANY (ARRAY(SELECT place FROM late))
    RETURNING t.id, t.attempts, t.error
), history AS (
    -- Under a new token, so that it comes after the attempts that were made and replaces no other row.
    INSERT INTO task_attempts (task_id, claim, attempt, cause, error, ended_at)
    SELECT id, nextval('task_claims'), attempts, 'expired', error, queue_now() FROM expired
    ON CONFLICT DO NOTHING
)
SELECT id FROM expired
