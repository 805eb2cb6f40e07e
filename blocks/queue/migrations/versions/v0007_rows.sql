-- Runs in one transaction, under live lanes.

-- step: give up soon rather than queue every lane behind us
SET LOCAL lock_timeout = '10s'

-- step: what a rule says of a row that breaks it
CREATE OR REPLACE FUNCTION tasks_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'new row for relation "tasks" violates rule "%": %', TG_NAME, TG_ARGV[0]
        USING ERRCODE = 'check_violation', TABLE = 'tasks', CONSTRAINT = TG_NAME;
END $$

-- step: rules for new rows. Not CHECKs: those hold for every update of an older row too, and it could never be claimed
DO $$
DECLARE
    rule record;
BEGIN
    FOR rule IN SELECT * FROM (VALUES
        ('tasks_counters_are_plausible',
         'attempts, timed_out, lease_lost, interrupted and suspicion are 0 to 1000000, claim is 0 to 2^53',
         $c$NEW.attempts NOT BETWEEN 0 AND 1000000 OR NEW.timed_out NOT BETWEEN 0 AND 1000000
            OR NEW.lease_lost NOT BETWEEN 0 AND 1000000 OR NEW.interrupted NOT BETWEEN 0 AND 1000000
            OR NEW.suspicion < 0 OR NEW.claim NOT BETWEEN 0 AND 9007199254740992$c$),
        ('tasks_names_are_short',
         'type and dedup_key are 1000 bytes long at most',
         $c$octet_length(NEW.type) > 1000 OR octet_length(NEW.dedup_key) > 1000$c$),
        ('tasks_moments_are_plausible',
         'moments are in the years 1 to 9999, or infinite',
         (SELECT string_agg(format(
              $f$(NEW.%1$I < '0001-01-01 00:00:00+00' AND NEW.%1$I > '-infinity')
                 OR (NEW.%1$I >= '10000-01-01 00:00:00+00' AND NEW.%1$I < 'infinity')$f$, name), ' OR ')
          FROM unnest('{created_at,updated_at,run_after,locked_at,begun_at,finished_at}'::text[]) name))
    ) AS r(name, says, broken)
    LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER %I BEFORE INSERT ON tasks FOR EACH ROW WHEN (%s) EXECUTE FUNCTION tasks_refuse(%L)',
            rule.name, rule.broken, rule.says);
    END LOOP;
END $$

-- step: figures of a lane that is gone, whatever it said: one beyond the range of a float kept every lane from being reaped
CREATE OR REPLACE FUNCTION lanes_keep_figures() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- In order, so that two of these never wait for each other.
    INSERT INTO lane_totals AS total (name, value)
    SELECT figure.key, sum(CASE WHEN abs(figure.value::numeric) < 1e-300 THEN 0
                           ELSE least(greatest(figure.value::numeric, -1e300), 1e300)::float8 END)
    FROM gone CROSS JOIN LATERAL jsonb_each(gone.figures) figure
    WHERE jsonb_typeof(figure.value) = 'number'
    GROUP BY figure.key ORDER BY figure.key
    ON CONFLICT (name) DO UPDATE SET value = least(greatest(total.value, -1e300), 1e300) + excluded.value;
    RETURN NULL;
END $$

-- step: a task with the newest of its attempts, with moments that every reader of JSON reads
CREATE OR REPLACE FUNCTION read_task(lowest uuid, highest uuid, default_attempts int)
RETURNS TABLE (task tasks, attempts_allowed int, attempts_made text)
LANGUAGE plpgsql STABLE ROWS 1
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT t, coalesce(t.max_attempts, policy.max_attempts, default_attempts),
           (SELECT json_agg(made ORDER BY made.claim)::text
            FROM (SELECT claim, attempt, lane, cause, error,
                         CASE WHEN started_at IS NOT NULL THEN
                             greatest(least(started_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
                                 AT TIME ZONE 'UTC' END AS started_at,
                         greatest(least(ended_at, '9999-12-31 00:00:00+00'), '0001-01-01 00:00:00+00')
                             AT TIME ZONE 'UTC' AS ended_at
                  FROM task_attempts WHERE task_id = t.id ORDER BY claim DESC LIMIT 1000) made)
    FROM tasks t LEFT JOIN task_types policy USING (type)
    WHERE t.id BETWEEN lowest AND highest ORDER BY t.id LIMIT 6;
END $$

-- step: a task of the older system that had no time at all could never be due; found by the index of what waits
UPDATE tasks SET run_after = queue_now() WHERE run_after IS NULL AND status IN ('queued', 'retry')
