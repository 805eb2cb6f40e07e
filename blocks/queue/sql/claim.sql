-- Claims due tasks from lines of waiting tasks. The lines are read in the order given, one per element of the arrays.
-- Without a domain or key, that is empty. Takes at most the quota of each line, and only after a place (run_after and
-- id), or from its head if that is NULL.
WITH lane AS MATERIALIZED (
    -- Against a reaper at the same moment: it locks this row to end the lease. So either it waits for us, or we find
    -- that the lease has ended and claim nothing.
    SELECT id FROM lanes WHERE id = :lane AND lease_until > queue_now() FOR KEY SHARE
), ready AS MATERIALIZED (
    -- A CTE, not IN (SELECT ... LIMIT): a planner free to re-run the subquery claims more than the limit.
    SELECT due.place
    FROM (
        SELECT given.*
        FROM unnest(:types::text[], :priorities::int[], :domains::text[], :keys::text[], :quotas::int[], :after::timestamptz[], :after_ids::uuid[])
            WITH ORDINALITY AS given(type, priority, domain, key, quota, after, after_id, number)
        WHERE NOT EXISTS (SELECT FROM pauses WHERE kind = 'type' AND name = given.type)
          AND NOT EXISTS (SELECT FROM pauses WHERE kind = 'domain' AND name = given.domain)
          AND NOT EXISTS (SELECT FROM closures WHERE kind = 'type' AND name = given.type AND closures.key = given.key
                          AND until > queue_now())
        -- The planner may hash the lines to compare them with the pauses, which loses their order.
        ORDER BY number
    ) line
    CROSS JOIN LATERAL (
        SELECT ctid AS place FROM tasks
        WHERE status IN ('queued', 'retry') AND tasks.type = line.type AND tasks.priority = line.priority
          AND coalesce(tasks.domain, '') = line.domain AND coalesce(tasks.key, '') = line.key
          AND (run_after, id) > (coalesce(line.after, '-infinity'),
                                 coalesce(line.after_id, '00000000-0000-0000-0000-000000000000'))
          AND run_after <= queue_now() AND (expires_at IS NULL OR expires_at > queue_now())
          AND EXISTS (SELECT FROM lane)
        ORDER BY run_after, id
        LIMIT line.quota
        FOR UPDATE SKIP LOCKED
    ) due
    LIMIT :limit
), claimed AS (
    UPDATE tasks t
    -- A row written by its owner may hold the largest number there is, or NULL in a table of the older system.
    SET status = 'running', claim = nextval('task_claims'), attempts = least(coalesce(t.attempts, 0), 2147483646) + 1,
        locked_by = :lane, locked_at = queue_now(), waits_for = NULL, handler_version = NULL, updated_at = queue_now()
    -- Not a join: with so many rows the planner may turn a join into a scan of the table.
    WHERE t.ctid = ANY (ARRAY(SELECT place FROM ready))
    RETURNING t.id::text, t.claim, t.attempts, t.type, coalesce(t.params::text, '{}') AS params, t.description, t.domain,
              coalesce(t.drift_score, 0) AS drift_score,
              -- The policies are read once, not once a task. 30 years: a longer timeout is as good as endless, and
              -- clocks cannot count it.
              CASE WHEN t.timeout_s IS NOT NULL THEN least(t.timeout_s, 1e9)
                   ELSE ((SELECT jsonb_object_agg(type, least(timeout_s, 1e9)) FROM task_types WHERE timeout_s IS NOT NULL)
                         ->> t.type)::float8 END AS timeout_s, t.suspicion,
              (t.interrupted > 0 OR t.lease_lost > 0 OR t.suspicion > 0) AS reclaimed,
              t.begun_at IS NOT NULL AS begun, t.priority, coalesce(t.key, '') AS key,
              -- Of the type timestamp: those with a time zone are decoded in Python, which takes longer than all else.
              greatest(t.run_after, 'epoch') AT TIME ZONE 'UTC' AS run_after, t.traceparent
)
-- One row of columns: as a row for each task they cost the lane 4 us more. What has long params has a row of its own,
-- so that no array grows to gigabytes.
SELECT array_agg(id) AS id, array_agg(claim) AS claim, array_agg(attempts), array_agg(type), array_agg(params),
       array_agg(description), array_agg(domain), array_agg(drift_score), array_agg(timeout_s), array_agg(suspicion),
       array_agg(reclaimed), array_agg(begun), array_agg(priority), array_agg(key), array_agg(run_after),
       array_agg(traceparent)
FROM claimed WHERE octet_length(params) <= 32768 HAVING count(*) > 0
UNION ALL
SELECT ARRAY[id], ARRAY[claim], ARRAY[attempts], ARRAY[type], ARRAY[params], ARRAY[description], ARRAY[domain],
       ARRAY[drift_score], ARRAY[timeout_s], ARRAY[suspicion], ARRAY[reclaimed], ARRAY[begun], ARRAY[priority],
       ARRAY[key], ARRAY[run_after], ARRAY[traceparent]
FROM claimed WHERE octet_length(params) > 32768
