-- Writes what running tasks have reported. What is NULL in a report stays as it is. Stale claims change nothing.
WITH held AS MATERIALIZED (
    SELECT t.id, r.claim, r.step, r.state::jsonb AS state, r.fraction, r.note, r.chunks::jsonb AS chunks, r.run_begin, r.last,
           r.state IS NOT NULL AND r.step > coalesce(saved.furthest, 0) AS further
    FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[]), (SELECT :steps::bigint[]), (SELECT :states::text[]),
                (SELECT :fractions::float8[]), (SELECT :notes::text[]), (SELECT :chunks::text[]),
                (SELECT :run_begins::bigint[]), (SELECT :lasts::bigint[]))
        AS r(id, claim, step, state, fraction, note, chunks, run_begin, last)
    JOIN tasks t ON t.id = r.id
    LEFT JOIN task_checkpoints saved ON saved.task_id = t.id
    -- The fence: a holder whose claim is not the newest changes nothing. The lock keeps it true until the commit: a
    -- settlement or a cancel waits, a reap passes over the task.
    WHERE t.claim = r.claim AND t.status = 'running'
    ORDER BY t.id
    FOR SHARE OF t
), recorded AS (
    INSERT INTO task_checkpoints AS saved
        (task_id, claim, step, furthest, state, saved_at, fraction, note, reported_at, resumed_step)
    SELECT id, claim, step, step, state, CASE WHEN state IS NOT NULL THEN queue_now() END, fraction, note, queue_now(), 0
    FROM held WHERE chunks IS NULL OR state IS NOT NULL OR note IS NOT NULL ORDER BY id
    ON CONFLICT (task_id) DO UPDATE
    SET claim = excluded.claim,
        -- The first report of an attempt finds what it continued from.
        resumed_step = CASE WHEN saved.claim < excluded.claim THEN saved.step ELSE saved.resumed_step END,
        step = CASE WHEN excluded.state IS NULL THEN saved.step ELSE excluded.step END,
        furthest = CASE WHEN excluded.state IS NULL THEN saved.furthest
                   ELSE greatest(saved.furthest, excluded.furthest) END,
        state = coalesce(excluded.state, saved.state),
        saved_at = coalesce(excluded.saved_at, saved.saved_at),
        fraction = CASE WHEN excluded.note IS NULL THEN saved.fraction ELSE excluded.fraction END,
        note = coalesce(excluded.note, saved.note),
        reported_at = excluded.reported_at
), recovered AS (
    -- An attempt that got further than all before it ends the count of what befell those: a long task is not charged
    -- for the deaths of others. It stays a suspect if it was one, but of the first degree.
    UPDATE tasks t SET lease_lost = 0, interrupted = 0, suspicion = least(t.suspicion, 1)
    FROM held
    WHERE t.id = held.id AND held.further AND (t.lease_lost > 0 OR t.interrupted > 0 OR t.suspicion > 1)
), emitted AS (
    -- Written before, if the answer to this statement was lost.
    INSERT INTO task_chunks (task_id, claim, number, run_begin, chunks)
    SELECT id, claim, last, run_begin, chunks FROM held WHERE chunks IS NOT NULL
    ON CONFLICT DO NOTHING
), begun_again AS (
    -- The first chunks of a run take the place of those of all runs before it.
    DELETE FROM task_chunks earlier USING held
    WHERE earlier.task_id = held.id AND held.last - jsonb_array_length(held.chunks) = held.run_begin
      AND (earlier.claim, earlier.number) < (held.claim, held.run_begin)
)
SELECT claim, further FROM held
