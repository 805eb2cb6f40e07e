-- Runs in one transaction, under live lanes and producers.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: a right to insert is a right to ask for work, not to say how it ended. Who may update tasks could do so anyway
CREATE OR REPLACE TRIGGER tasks_begin_waiting BEFORE INSERT ON tasks FOR EACH ROW
    WHEN (NEW.status NOT IN ('created', 'queued') AND NOT has_column_privilege('tasks'::regclass, 'status', 'UPDATE'))
    EXECUTE FUNCTION tasks_refuse('status is created or queued, for a login that may not update it')
