-- $1 status, $2 type, $3 domain and $4 LIKE pattern of the error, each or NULL; finished from $5 on, or NULL, to $6;
-- $7 and $8 finished_at, as the text of an earlier answer, and id after which to begin, or NULL; $9 finished tasks to look at, $10 most to redrive;
-- $11 id in the audit, $12 who, $13 what was asked for. Whatever fits, it looks at no more than one page.
WITH page AS MATERIALIZED (
    SELECT ctid AS place, id, finished_at, type, domain, error, dedup_key FROM tasks
    WHERE status = $1::text::taskstatus AND finished_at >= coalesce($5::timestamptz, '-infinity') AND finished_at <= $6
      AND (finished_at, id) > (coalesce($7::text::timestamptz, '-infinity'),
                               coalesce($8::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY finished_at, id
    LIMIT $9
), fitting AS MATERIALIZED (
    -- Of one type and key only one may be unfinished: the oldest of the dead, if there is no other.
    SELECT place, id, finished_at, dedup_key IS NOT NULL AND (
        row_number() OVER (PARTITION BY type, dedup_key ORDER BY finished_at, id) > 1
        OR EXISTS (SELECT FROM tasks other WHERE other.type = page.type AND other.dedup_key = page.dedup_key
                   AND other.status IN ('created', 'queued', 'running', 'retry'))) AS kept_out
    FROM page
    WHERE ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR domain = $3)
      AND ($4::text IS NULL OR error LIKE $4)
), chosen AS MATERIALIZED (
    -- A row that has changed since is judged anew by its own columns; what somebody else redrives now is theirs.
    -- Written so that no index has them: one of all dead letters would be read for each page.
    SELECT ctid AS place, id, attempts, error FROM tasks
    WHERE ctid = ANY (ARRAY(SELECT place FROM fitting WHERE NOT kept_out ORDER BY finished_at, id LIMIT $10))
      AND status::text = $1::text AND (finished_at <= $6) IS TRUE
    FOR UPDATE SKIP LOCKED
), redriven AS (
    -- The claim stays: the next one is greater, and until then no status lets a late holder write.
    UPDATE tasks t
    SET status = 'queued', attempts = 0, timed_out = 0, lease_lost = 0, interrupted = 0, error = NULL, run_after = queue_now(),
        finished_at = NULL, locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    WHERE t.ctid = ANY (ARRAY(SELECT place FROM chosen))
    RETURNING t.id
), history AS (
    -- Under a token of its own, so that it comes after the attempt that ended the task and takes no other's place.
    INSERT INTO task_attempts (task_id, claim, attempt, cause, error, ended_at)
    SELECT id, nextval('task_claims'), coalesce(attempts, 0), 'redriven', error, queue_now()
    FROM chosen JOIN redriven USING (id)
    ON CONFLICT DO NOTHING
), audited AS (
    INSERT INTO task_audit (id, action, actor, details, tasks)
    SELECT $11, 'redrive', $12, $13::jsonb, count(*) FROM redriven
    ON CONFLICT (id) DO UPDATE SET tasks = task_audit.tasks + excluded.tasks
)
SELECT (SELECT count(*) FROM page) AS looked_at, (SELECT count(*) FROM redriven) AS redriven,
       (SELECT count(*) FROM fitting WHERE kept_out) AS kept_out, last.finished_at::text, last.id
FROM (VALUES (1)) one LEFT JOIN (
    SELECT finished_at, id FROM page ORDER BY finished_at DESC, id DESC LIMIT 1
) last ON true
