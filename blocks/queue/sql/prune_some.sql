-- Deletes those of these tasks that still have the status.
-- $1 status, $2 ids.
WITH old AS MATERIALIZED (
    SELECT id FROM tasks WHERE id = ANY ($2::uuid[]) AND status = $1::taskstatus AND finished_at IS NOT NULL
    FOR UPDATE SKIP LOCKED
), pruned AS (
    DELETE FROM tasks WHERE id IN (SELECT id FROM old) RETURNING id
)
SELECT count(*) FROM pruned
