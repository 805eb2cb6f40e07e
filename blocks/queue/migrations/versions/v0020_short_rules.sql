-- Runs in one transaction, under live lanes and producers. The rules for new rows stay the same and are checked with
-- less: Postgres reads the text of each condition anew for every statement, and those of these two took 0.1 ms of a
-- single INSERT.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: a moment beyond the years is refused, an infinite one is not
CREATE OR REPLACE FUNCTION tasks_check_moments() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM unnest(ARRAY[NEW.created_at, NEW.updated_at, NEW.run_after, NEW.expires_at, NEW.locked_at,
                                 NEW.begun_at, NEW.finished_at]) moment
        WHERE isfinite(moment) AND (moment < '0001-01-01 00:00:00+00' OR moment >= '10000-01-01 00:00:00+00')
    ) THEN
        RAISE EXCEPTION 'new row for relation "tasks" violates rule "%": %', TG_NAME, TG_ARGV[0]
            USING ERRCODE = 'check_violation', TABLE = 'tasks', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$

-- step: moments
CREATE OR REPLACE TRIGGER tasks_moments_are_plausible BEFORE INSERT ON tasks FOR EACH ROW
    WHEN (least(NEW.created_at, NEW.updated_at, NEW.run_after, NEW.expires_at, NEW.locked_at, NEW.begun_at,
                NEW.finished_at) < '0001-01-01 00:00:00+00'
          OR greatest(NEW.created_at, NEW.updated_at, NEW.run_after, NEW.expires_at, NEW.locked_at, NEW.begun_at,
                      NEW.finished_at) >= '10000-01-01 00:00:00+00')
    EXECUTE FUNCTION tasks_check_moments('moments are in the years 1 to 9999, or infinite')

-- step: counters
CREATE OR REPLACE TRIGGER tasks_counters_are_plausible BEFORE INSERT ON tasks FOR EACH ROW
    WHEN (least(NEW.attempts, NEW.timed_out, NEW.lease_lost, NEW.interrupted) < 0
          OR greatest(NEW.attempts, NEW.timed_out, NEW.lease_lost, NEW.interrupted) > 1000000
          OR NEW.suspicion < 0 OR NEW.claim NOT BETWEEN 0 AND 9007199254740992)
    EXECUTE FUNCTION tasks_refuse(
        'attempts, timed_out, lease_lost, interrupted and suspicion are 0 to 1000000, claim is 0 to 2^53')
