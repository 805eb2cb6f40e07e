-- Deletes those of these tasks that still have the status.
WITH old AS MATERIALIZED (
    SELECT id FROM tasks WHERE id = ANY (:ids::uuid[]) AND status = :status::taskstatus AND finished_at IS NOT NULL
    FOR UPDATE SKIP LOCKED
), pruned AS (
    DELETE FROM tasks WHERE id IN (SELECT id FROM old) RETURNING id
)
SELECT count(*) FROM pruned
