-- Runs in one transaction, under live lanes and producers; it only adds. Lanes of the version before trace nothing and
-- keep no log.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: the trace that a task belongs to, and what its handler logged
ALTER TABLE tasks
    ADD COLUMN IF NOT EXISTS traceparent text,
    ADD COLUMN IF NOT EXISTS log text

-- step: what it logged in the attempts before
ALTER TABLE task_attempts ADD COLUMN IF NOT EXISTS log text

-- step: note on traces
COMMENT ON COLUMN tasks.traceparent IS
    'W3C trace context of whoever added it. What is no such context counts as none.'

-- step: note on logs
COMMENT ON COLUMN tasks.log IS
    'The last lines, 16 kB at most, that its handler logged through its context in the last attempt that has ended.'

-- step: a task is read with the logs of its attempts
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
                         CASE WHEN started_at IS NOT NULL THEN
                             greatest(least(started_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
                                 AT TIME ZONE 'UTC' END AS started_at,
                         greatest(least(ended_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
                             AT TIME ZONE 'UTC' AS ended_at
                  FROM task_attempts WHERE task_id = t.id ORDER BY claim DESC LIMIT 1000) made)
    FROM tasks t LEFT JOIN task_types policy USING (type)
    WHERE t.id BETWEEN lowest AND highest ORDER BY t.id LIMIT 6;
END $$
