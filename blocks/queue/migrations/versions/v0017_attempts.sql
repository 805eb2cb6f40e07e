-- Runs in one transaction, under live lanes and producers; it only adds. Lanes of the version before leave these columns
-- empty.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: what runs a task, if that is known
ALTER TABLE tasks ADD COLUMN IF NOT EXISTS handler_version text

-- step: what ran an attempt, what it continued from, and how far it got
ALTER TABLE task_attempts
    ADD COLUMN IF NOT EXISTS handler_version text,
    ADD COLUMN IF NOT EXISTS resumed_step bigint,
    ADD COLUMN IF NOT EXISTS reached_step bigint,
    ADD COLUMN IF NOT EXISTS fraction double precision

-- step: what the attempt that reports continued from
ALTER TABLE task_checkpoints ADD COLUMN IF NOT EXISTS resumed_step bigint

-- step: note on versions
COMMENT ON COLUMN tasks.handler_version IS
    'Version of the handler of its newest attempt, where the attempt took some seconds, reported something or failed.'

-- step: note on the versions of attempts
COMMENT ON COLUMN task_attempts.handler_version IS
    'Version of the handler that ran it: what its organ says, or a digest of its code. NULL: not known.'

-- step: note on where an attempt began
COMMENT ON COLUMN task_attempts.resumed_step IS 'Step of the checkpoint that it continued from. NULL: there was none.'

-- step: note on where an attempt ended
COMMENT ON COLUMN task_attempts.reached_step IS
    'Step of the newest checkpoint when it ended. NULL: there was none.'

-- step: note on the progress of an attempt
COMMENT ON COLUMN task_attempts.fraction IS 'Done share, from 0 to 1, that its handler last reported.'

-- step: note on where the attempt that reports began
COMMENT ON COLUMN task_checkpoints.resumed_step IS 'Step that the attempt under this claim continued from.'

-- step: a task is read with what its attempts reached
CREATE OR REPLACE FUNCTION read_task(lowest uuid, highest uuid, default_attempts int)
RETURNS TABLE (task tasks, attempts_allowed int, attempts_made text)
LANGUAGE plpgsql STABLE ROWS 1
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT t, coalesce(t.max_attempts, policy.max_attempts, default_attempts),
           (SELECT json_agg(made ORDER BY made.claim)::text
            FROM (SELECT claim, attempt, lane, cause, error, log,
                         handler_version, resumed_step, reached_step, fraction,
                         CASE WHEN started_at IS NOT NULL THEN
                             greatest(least(started_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
                                 AT TIME ZONE 'UTC' END AS started_at,
                         greatest(least(ended_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
                             AT TIME ZONE 'UTC' AS ended_at
                  FROM task_attempts WHERE task_id = t.id ORDER BY claim DESC LIMIT 1000) made)
    FROM tasks t LEFT JOIN task_types policy USING (type)
    WHERE t.id BETWEEN lowest AND highest ORDER BY t.id LIMIT 6;
END $$
