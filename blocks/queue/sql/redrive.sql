-- Queues finished tasks again. Reads no more than one page, however many tasks match. Begins after a place:
-- finished_at, as the text of an earlier answer, and id. NULL begins with the first.
WITH page AS MATERIALIZED (
    SELECT ctid AS place, id, finished_at, type, domain, error, dedup_key FROM tasks
    WHERE status = :status::text::taskstatus AND finished_at >= coalesce(:since::timestamptz, '-infinity')
      AND finished_at <= :until
      AND (finished_at, id) > (coalesce(:after::text::timestamptz, '-infinity'),
                               coalesce(:after_id::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY finished_at, id
    LIMIT :page
), fitting AS MATERIALIZED (
    -- Only one task of a type and key may be unfinished: the oldest of these, if there is no other.
    SELECT place, id, finished_at, dedup_key IS NOT NULL AND (
        row_number() OVER (PARTITION BY type, dedup_key ORDER BY finished_at, id) > 1
        OR EXISTS (SELECT FROM tasks other WHERE other.type = page.type AND other.dedup_key = page.dedup_key
                   AND other.status IN ('created', 'queued', 'running', 'retry'))) AS kept_out
    FROM page
    WHERE (:type::text IS NULL OR type = :type) AND (:domain::text IS NULL OR domain = :domain)
      AND (:error::text IS NULL OR error LIKE :error)
), chosen AS MATERIALIZED (
    -- A row that has changed since then is checked again by its own columns. A row that another call redrives now is
    -- left to it.
    -- Written so that no index matches: an index of all dead letters would be read for each page.
    SELECT ctid AS place, id, attempts, error FROM tasks
    WHERE ctid = ANY (ARRAY(SELECT place FROM fitting WHERE NOT kept_out ORDER BY finished_at, id LIMIT :limit))
      AND status::text = :status::text AND (finished_at <= :until) IS TRUE
    FOR UPDATE SKIP LOCKED
), redriven AS (
    -- The claim stays: the next one is greater, and until then no status lets a late holder write.
    UPDATE tasks t
    SET status = 'queued', attempts = 0, timed_out = 0, lease_lost = 0, interrupted = 0, snoozed = 0, expires_at = NULL, waits_for = NULL, error = NULL,
        run_after = queue_now(), finished_at = NULL, locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    WHERE t.ctid = ANY (ARRAY(SELECT place FROM chosen))
    RETURNING t.id
), from_start AS (
    DELETE FROM task_checkpoints WHERE :from_start::bool AND task_id = ANY (ARRAY(SELECT id FROM redriven))
), events_from_start AS (
    DELETE FROM task_events WHERE :from_start::bool AND task_id = ANY (ARRAY(SELECT id FROM redriven))
), waits_from_start AS (
    DELETE FROM task_waits WHERE :from_start::bool AND task_id = ANY (ARRAY(SELECT id FROM redriven))
), history AS (
    -- Under a new token, so that it comes after the attempt that ended the task and replaces no other row.
    INSERT INTO task_attempts (task_id, claim, attempt, cause, error, ended_at)
    SELECT id, nextval('task_claims'), coalesce(attempts, 0), 'redriven', error, queue_now()
    FROM chosen JOIN redriven USING (id)
    ON CONFLICT DO NOTHING
), audited AS (
    INSERT INTO task_audit (id, action, actor, details, tasks)
    SELECT :audit, 'redrive', :actor, :details::jsonb, count(*) FROM redriven
    ON CONFLICT (id) DO UPDATE SET tasks = task_audit.tasks + excluded.tasks
)
SELECT (SELECT count(*) FROM page) AS scanned, (SELECT count(*) FROM redriven) AS redriven,
       (SELECT count(*) FROM fitting WHERE kept_out) AS kept_out, last.finished_at::text, last.id
FROM (VALUES (1)) one LEFT JOIN (
    SELECT finished_at, id FROM page ORDER BY finished_at DESC, id DESC LIMIT 1
) last ON true
