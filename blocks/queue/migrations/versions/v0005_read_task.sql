-- Runs in one transaction, under live lanes; it only adds.

-- step: a task by id, planned once a session and not at each of many small reads; a plan of a small table
-- that reads all of it would be kept when the table is large
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
            FROM (SELECT claim, attempt, lane, cause, error, started_at, ended_at
                  FROM task_attempts WHERE task_id = t.id) made)
    FROM tasks t LEFT JOIN task_types policy USING (type)
    WHERE t.id BETWEEN lowest AND highest ORDER BY t.id LIMIT 6;
END $$
