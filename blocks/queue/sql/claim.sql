-- $1 lane, $2 limit
WITH lane AS MATERIALIZED (
    -- Against a reaper at the same moment: it locks this row to delete it, so either it waits for us or we
    -- find the row gone and claim nothing.
    SELECT id FROM lanes WHERE id = $1 AND lease_until > queue_now() FOR KEY SHARE
), ready AS MATERIALIZED (
    -- A CTE, not IN (SELECT ... LIMIT): a planner free to re-run the subquery claims more than the limit.
    SELECT id FROM tasks
    WHERE status IN ('queued', 'retry') AND run_after <= queue_now() AND EXISTS (SELECT FROM lane)
    ORDER BY priority DESC, run_after, id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE tasks t
SET status = 'running', claim = nextval('task_claims'), attempts = t.attempts + 1,
    locked_by = $1, locked_at = queue_now(), updated_at = queue_now()
FROM ready
WHERE t.id = ready.id
RETURNING t.id::text, t.claim, t.attempts, t.type, t.params::text AS params, t.description, t.domain,
          t.drift_score, t.timeout_s, t.suspicion
