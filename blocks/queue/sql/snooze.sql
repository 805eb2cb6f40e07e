-- Puts tasks off until a moment or an event, as their handlers have asked, without charging the attempt. A task that was
-- put off as often as it may be becomes a dead letter. Closes until then what a handler has named: "key" or a limit.
WITH reported AS (
    SELECT t.id, r.claim, t.type, coalesce(t.key, '') AS key, r.closes, r.event, r.or_fail, r.path, r.organ_id, r.elapsed_ms, r.log,
        r.version,
        spent.it AS spent,
        r.error || CASE WHEN r.closes <> 'key' AND NOT EXISTS (SELECT FROM limits WHERE limits.name = r.closes)
                        THEN format(' (it closes nothing: there is no limit %s)', r.closes) ELSE '' END AS error,
        CASE
            WHEN t.cancel_requested THEN 'cancelled'
            WHEN spent.it OR t.snoozed >= coalesce(policy.max_snoozes, :default_max_snoozes) THEN 'failed'
            -- For an event it is queued, whatever came before: what is in retry is due at some time.
            WHEN t.attempts > 1 AND r.event IS NULL THEN 'retry'
            ELSE 'queued'
        END::taskstatus AS status,
        greatest(coalesce(r.until, queue_now() + make_interval(secs => least(greatest(coalesce(r.after_s, 0), 0), 1e9))),
                 CASE WHEN r.after_s IS NULL AND r.until IS NULL AND r.event IS NOT NULL THEN 'infinity' ELSE queue_now() END)
            AS until
    FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[]), (SELECT :errors::text[]), (SELECT :paths::text[]),
                (SELECT :organ_ids::text[]), (SELECT :elapsed_ms::real[]), (SELECT :after_s::float8[]),
                (SELECT :until::timestamptz[]), (SELECT :closes::text[]), (SELECT :events::text[]),
                (SELECT :or_fail::bool[]), (SELECT :logs::text[]), (SELECT :versions::text[]))
        AS r(id, claim, error, path, organ_id, elapsed_ms, after_s, until, closes, event, or_fail, log, version)
    JOIN tasks t ON t.id = r.id
    LEFT JOIN task_types policy ON policy.type = t.type
    -- An event comes once: a task that waits again for one that it has had would be resumed at once, again and again.
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM task_events had WHERE had.task_id = t.id AND had.name = r.event
                                       AND had.delivered_at IS NOT NULL)) spent(it)
    -- The fence: a holder whose claim is not the newest changes nothing, and closes nothing.
    WHERE t.claim = r.claim AND t.status = 'running'
    ORDER BY t.id
    FOR UPDATE OF t
), snoozed AS (
    UPDATE tasks t
    SET status = r.status,
        error = CASE WHEN r.status = 'failed' AND r.spent
                     THEN format('waits again for the event %s, which it has had: %s', r.event, r.error)
                     WHEN r.status = 'failed' THEN format('put off %s times before it ended: %s', t.snoozed, r.error)
                     ELSE t.error END,
        attempts = greatest(t.attempts, 1) - (r.status <> 'failed')::int,
        snoozed = least(t.snoozed, 2147483646) + (r.status <> 'failed')::int,
        run_after = CASE WHEN r.status IN ('queued', 'retry') THEN r.until ELSE t.run_after END,
        waits_for = CASE WHEN r.status = 'queued' THEN r.event END,
        -- A claim looks for what is left only of tasks that a handler is known to have begun.
        begun_at = CASE WHEN r.event IS NULL THEN t.begun_at ELSE coalesce(t.begun_at, queue_now()) END,
        finished_at = CASE WHEN r.status NOT IN ('queued', 'retry') THEN queue_now() END,
        elapsed_ms = r.elapsed_ms, organ_id = r.organ_id, path = r.path, log = r.log,
        handler_version = coalesce(r.version, t.handler_version),
        locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
    FROM reported r
    WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
    RETURNING t.id, t.claim, t.attempts, t.status, t.waits_for, r.error, r.elapsed_ms, r.log, r.until, r.or_fail,
              t.handler_version
), waits AS (
    INSERT INTO task_waits AS before (task_id, claim, name, since, until, or_fail)
    SELECT id, claim, waits_for, queue_now(), nullif(until, 'infinity'), or_fail FROM snoozed
    WHERE waits_for IS NOT NULL ORDER BY id
    ON CONFLICT (task_id) DO UPDATE
        SET claim = excluded.claim, name = excluded.name, since = excluded.since, until = excluded.until,
            or_fail = excluded.or_fail
), history AS (
    INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at, log,
                               handler_version, resumed_step, reached_step, fraction)
    SELECT id, claim, attempts + (status <> 'failed')::int, :lane, 'snoozed', error,
           queue_now() - make_interval(secs => elapsed_ms / 1000), queue_now(), log,
           handler_version, resumed_step, reached_step, fraction
    FROM snoozed ended
    {attempt_reach}
    ON CONFLICT DO NOTHING
), closed AS (
    INSERT INTO closures AS before (kind, name, key, until, reason)
    SELECT named.kind, named.name, named.key, max(named.until), left(max(named.error), 500)
    FROM (
        SELECT 'type' AS kind, type AS name, key, until, error FROM reported WHERE closes = 'key'
        UNION ALL
        SELECT 'limit', limits.name, CASE WHEN limits.by_key THEN reported.key ELSE '' END, until, error
        FROM reported JOIN limits ON limits.name = reported.closes
        WHERE closes <> 'key'
    ) named
    WHERE named.until > queue_now()
    GROUP BY 1, 2, 3
    -- All settlements use one order: two that close the same in different orders would each wait for the other.
    ORDER BY 1, 2, 3
    ON CONFLICT (kind, name, key) DO UPDATE
        SET until = excluded.until, reason = excluded.reason, closed_at = excluded.closed_at
        WHERE before.until < excluded.until
)
SELECT id::text, {shown_status} AS status FROM snoozed
