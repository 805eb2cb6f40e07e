-- Deletes tasks that finished long ago, with their attempts. Skips tasks that another transaction has locked, to
-- redrive them. Begins at a finished_at, as text, or with the first if that is NULL.
WITH old AS MATERIALIZED (
    SELECT ctid AS place FROM tasks
    WHERE status = :status::taskstatus AND finished_at >= coalesce(:begin::text::timestamptz, '-infinity')
      AND finished_at < queue_now() - make_interval(secs => :older_than_s)
    ORDER BY finished_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), pruned AS (
    DELETE FROM tasks WHERE ctid = ANY (ARRAY(SELECT place FROM old)) RETURNING finished_at
)
SELECT count(*) AS tasks, max(finished_at)::text AS newest FROM pruned
