-- Runs in one transaction, under live lanes; it only adds. Lanes of the version before make no task wait.

-- step: give up soon rather than queue every lane behind us
SET LOCAL lock_timeout = '10s'

-- step: the event that a task waits for. It is queued meanwhile, to be claimed at the end of its patience, so a claim
-- needs neither another index nor another status
ALTER TABLE tasks ADD COLUMN IF NOT EXISTS waits_for text

-- step: what became of the waits of a task
CREATE TABLE IF NOT EXISTS task_waits (
    task_id uuid PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    claim bigint NOT NULL,
    name text NOT NULL,
    since timestamptz NOT NULL DEFAULT queue_now(),
    until timestamptz,
    or_fail boolean NOT NULL DEFAULT false
)

-- step: events, each once
CREATE TABLE IF NOT EXISTS task_events (
    task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    name text NOT NULL CONSTRAINT task_events_name_is_plain CHECK (name ~ '^[A-Za-z0-9_.:-]{1,100}$'),
    payload jsonb CONSTRAINT task_events_payload_is_short CHECK (octet_length(payload::text) <= 300000),
    sent_at timestamptz NOT NULL DEFAULT queue_now(),
    delivered_at timestamptz,
    PRIMARY KEY (task_id, name)
)

-- step: an event resumes the task that waits for it. With the rights of the owner: whoever sends one may not write tasks
CREATE OR REPLACE FUNCTION task_events_deliver() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    task record;
BEGIN
    -- The lock puts events and the settlement that makes the task wait in an order: one of them sees the other.
    SELECT status::text, waits_for INTO task FROM tasks WHERE id = NEW.task_id FOR NO KEY UPDATE;
    IF NOT FOUND AND NEW.task_id IS NOT NULL THEN
        RAISE EXCEPTION 'there is no task %', NEW.task_id
            USING ERRCODE = 'foreign_key_violation', TABLE = 'task_events', CONSTRAINT = 'task_events_task_id_fkey';
    END IF;
    -- Twice is once. A plain INSERT does not fail, however often it is repeated.
    IF EXISTS (SELECT FROM task_events WHERE task_id = NEW.task_id AND name = NEW.name) THEN
        RETURN NULL;
    END IF;
    IF task.status IN ('completed', 'failed', 'cancelled') THEN
        RAISE EXCEPTION 'task % is % and takes no more events', NEW.task_id, task.status
            USING ERRCODE = 'check_violation', TABLE = 'task_events', CONSTRAINT = 'task_events_of_unfinished_tasks';
    END IF;
    IF (SELECT count(*) FROM task_events WHERE task_id = NEW.task_id) >= 1000 THEN
        RAISE EXCEPTION 'task % has had 1000 events and takes no more', NEW.task_id
            USING ERRCODE = 'check_violation', TABLE = 'task_events', CONSTRAINT = 'task_events_are_few';
    END IF;
    IF task.status = 'queued' AND task.waits_for = NEW.name THEN
        NEW.delivered_at := queue_now();
        UPDATE tasks SET waits_for = NULL, run_after = queue_now(), updated_at = queue_now() WHERE id = NEW.task_id;
        PERFORM pg_notify('organism_tasks', '');
    END IF;
    RETURN NEW;
END $$

-- step: it finds our tables, whatever the search path of whoever sends an event
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION task_events_deliver() SET search_path = %s, pg_temp',
                   (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'tasks'::regclass));
END $$

-- step: before each event
CREATE OR REPLACE TRIGGER task_events_deliver BEFORE INSERT ON task_events
    FOR EACH ROW EXECUTE FUNCTION task_events_deliver()

-- step: note on the event that is waited for
COMMENT ON COLUMN tasks.waits_for IS
    'Name of the event that it waits for, while its status is queued. NULL: it waits for none.'

-- step: note on waits
COMMENT ON TABLE task_waits IS 'The newest wait for an event of each task that has waited for one.'

-- step: note on the end of waits
COMMENT ON COLUMN task_waits.until IS 'When it continues without the event. NULL: never.'

-- step: note on failing
COMMENT ON COLUMN task_waits.or_fail IS 'Whether it fails then, instead of continuing.'

-- step: note on events
COMMENT ON TABLE task_events IS
    'Events sent to tasks. INSERT INTO task_events (task_id, name, payload) VALUES (...) sends one; the same again changes nothing.'

-- step: note on delivery
COMMENT ON COLUMN task_events.delivered_at IS 'When it resumed its task. NULL: the task has not waited for it yet.'
