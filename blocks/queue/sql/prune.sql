-- Deletes tasks that finished long ago, with their attempts. Skips tasks that another transaction has locked, to
-- redrive them.
-- $1 status, $2 age in seconds, $3 finished_at from which to begin, as text, or NULL, $4 limit.
WITH old AS MATERIALIZED (
    SELECT ctid AS place FROM tasks
    WHERE status = $1::taskstatus AND finished_at >= coalesce($3::text::timestamptz, '-infinity')
      AND finished_at < queue_now() - make_interval(secs => $2)
    ORDER BY finished_at
    LIMIT $4
    FOR UPDATE SKIP LOCKED
), pruned AS (
    DELETE FROM tasks WHERE ctid = ANY (ARRAY(SELECT place FROM old)) RETURNING finished_at
)
SELECT count(*) AS tasks, max(finished_at)::text AS newest FROM pruned
