-- Run as one transaction. Everything is written so that it creates what is missing and keeps what is there:
-- the same script makes a new database and adopts the older system's table.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: statuses
DO $$
BEGIN
    IF to_regtype('taskstatus') IS NULL THEN
        CREATE TYPE taskstatus AS ENUM
            ('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'retry');
    END IF;
END $$

-- step: the only clock that decides. Tests replace this function, and with it the time of every session at once
CREATE OR REPLACE FUNCTION queue_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT now()'

-- step: claim tokens grow over the whole table, so that they also order attempts of different tasks
CREATE SEQUENCE IF NOT EXISTS task_claims AS bigint

-- step: columns of the older table
CREATE TABLE IF NOT EXISTS tasks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    type text NOT NULL,
    description text,
    params jsonb NOT NULL DEFAULT '{}',
    domain text,
    drift_score double precision NOT NULL DEFAULT 0,
    status taskstatus NOT NULL DEFAULT 'queued',
    attempts integer NOT NULL DEFAULT 0,
    locked_by text,
    locked_at timestamptz,
    run_after timestamptz,
    result jsonb,
    error text,
    created_at timestamptz NOT NULL DEFAULT queue_now(),
    updated_at timestamptz NOT NULL DEFAULT queue_now()
)

-- step: columns since then
ALTER TABLE tasks
    ADD COLUMN IF NOT EXISTS locked_by text,
    ADD COLUMN IF NOT EXISTS locked_at timestamptz,
    ADD COLUMN IF NOT EXISTS description text,
    ADD COLUMN IF NOT EXISTS domain text,
    ADD COLUMN IF NOT EXISTS drift_score double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS claim bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS priority integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS max_attempts integer NOT NULL DEFAULT 5,
    ADD COLUMN IF NOT EXISTS timeout_s double precision,
    ADD COLUMN IF NOT EXISTS timed_out integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS lease_lost integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS suspicion smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS finished_at timestamptz,
    ADD COLUMN IF NOT EXISTS elapsed_ms real,
    ADD COLUMN IF NOT EXISTS organ_id text,
    ADD COLUMN IF NOT EXISTS path text

-- step: an inserted task is a ready task
ALTER TABLE tasks
    ALTER COLUMN status SET DEFAULT 'queued',
    ALTER COLUMN run_after SET DEFAULT queue_now(),
    ALTER COLUMN params SET DEFAULT '{}'

-- step: a task the older system left running has no lane and would stay so for ever
UPDATE tasks SET status = 'retry', locked_by = NULL, locked_at = NULL WHERE status = 'running'

-- step: run_after NULL used to mean now
UPDATE tasks SET run_after = created_at WHERE run_after IS NULL

-- step: bad input is refused at the door, by name
DO $$
DECLARE
    rule record;
BEGIN
    FOR rule IN SELECT * FROM (VALUES
        ('tasks_type_is_not_empty', $c$btrim(type) <> ''$c$),
        ('tasks_params_is_an_object', $c$jsonb_typeof(params) = 'object'$c$),
        ('tasks_drift_score_is_finite', $c$drift_score > '-Infinity' AND drift_score < 'Infinity'$c$),
        ('tasks_max_attempts_is_positive', $c$max_attempts >= 1$c$),
        ('tasks_timeout_s_is_positive', $c$timeout_s > 0 AND timeout_s < 'Infinity'$c$)
    ) AS r(name, condition)
    LOOP
        -- A rule that adopted rows break would make every claim of them fail, so it is left out.
        EXECUTE format(
            'DO $d$ BEGIN IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = %1$L '
            'AND conrelid = ''tasks''::regclass) AND NOT EXISTS (SELECT FROM tasks WHERE NOT (%2$s)) '
            'THEN ALTER TABLE tasks ADD CONSTRAINT %1$I CHECK (%2$s); END IF; END $d$',
            rule.name, rule.condition);
    END LOOP;
END $$

-- step: older producers insert an explicit NULL
CREATE OR REPLACE FUNCTION tasks_due_now() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.run_after := queue_now();
    RETURN NEW;
END $$

-- step: due now
CREATE OR REPLACE TRIGGER tasks_due_now BEFORE INSERT OR UPDATE OF run_after ON tasks
    FOR EACH ROW WHEN (NEW.run_after IS NULL) EXECUTE FUNCTION tasks_due_now()

-- step: a task that becomes ready wakes a lane, whoever wrote it. Postgres folds equal notifications of a transaction into one
CREATE OR REPLACE FUNCTION tasks_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('organism_tasks', '');
    RETURN NULL;
END $$

-- step: wake on insert, once a statement
CREATE OR REPLACE TRIGGER tasks_wake_on_insert AFTER INSERT ON tasks
    FOR EACH STATEMENT EXECUTE FUNCTION tasks_wake()

-- step: wake on the few updates that make a task ready; claims and completions never call the function
CREATE OR REPLACE TRIGGER tasks_wake_on_ready AFTER UPDATE OF status ON tasks
    FOR EACH ROW
    WHEN (NEW.status IN ('queued', 'retry') AND OLD.status NOT IN ('queued', 'retry'))
    EXECUTE FUNCTION tasks_wake()

-- step: claims read this in order and nothing else
CREATE INDEX IF NOT EXISTS tasks_ready ON tasks (priority DESC, run_after, id)
    WHERE status IN ('queued', 'retry')

-- step: what a lane holds
CREATE INDEX IF NOT EXISTS tasks_running ON tasks (locked_by) WHERE status = 'running'

-- step: dead letters
CREATE INDEX IF NOT EXISTS tasks_dead_letters ON tasks (finished_at) WHERE status = 'failed'

-- step: a queue's table turns over all the time; the default waits for a fifth of it to be dead
ALTER TABLE tasks SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)

-- step: one row per live lane: its lease, renewed by heartbeat, is the lease of every task it holds
CREATE TABLE IF NOT EXISTS lanes (
    id text PRIMARY KEY,
    run text,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT queue_now(),
    renewed_at timestamptz NOT NULL DEFAULT queue_now(),
    lease_until timestamptz NOT NULL,
    settled bigint NOT NULL DEFAULT 0,
    stop_requested boolean NOT NULL DEFAULT false
)

-- step: attempts that did not complete a task; the success path writes none
CREATE TABLE IF NOT EXISTS task_attempts (
    task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    claim bigint NOT NULL,
    attempt integer NOT NULL,
    lane text,
    cause text NOT NULL,
    error text,
    started_at timestamptz,
    ended_at timestamptz NOT NULL,
    PRIMARY KEY (task_id, claim)
)

-- step: notes for whoever reads the table in psql
COMMENT ON TABLE tasks IS
    'One row a task. INSERT INTO tasks (type, params) VALUES (...) enqueues one and wakes a lane.'

-- step: note on attempts
COMMENT ON COLUMN tasks.attempts IS
    'Attempts charged to the task, the running one included; interrupted and lease-lost ones are not.'

-- step: note on suspicion
COMMENT ON COLUMN tasks.suspicion IS
    'A replica died with this task on it: 0 never, 1 it runs with few others, 2 it runs alone.'

-- step: note on claim
COMMENT ON COLUMN tasks.claim IS
    'Token of the newest claim; only ever grows. Every write about a claimed task must carry it.'
