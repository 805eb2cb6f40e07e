-- Runs in one transaction, under live lanes; it only adds. Lanes of the version before claim what is closed.

-- step: give up soon rather than queue every lane behind us
SET LOCAL lock_timeout = '10s'

-- step: how often its handlers put a task off, and when it is too late to begin with it
ALTER TABLE tasks
    ADD COLUMN IF NOT EXISTS snoozed integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS cost double precision

-- step: not validated: that would read the table, and no row has a cost yet
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'tasks_cost_is_plausible' AND conrelid = 'tasks'::regclass) THEN
        ALTER TABLE tasks ADD CONSTRAINT tasks_cost_is_plausible CHECK (cost >= 0 AND cost <= 1e15) NOT VALID;
    END IF;
END $$

-- step: this moment must be readable, too
DO $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER tasks_moments_are_plausible BEFORE INSERT ON tasks FOR EACH ROW WHEN (%s) '
        'EXECUTE FUNCTION tasks_refuse(''moments are in the years 1 to 9999, or infinite'')',
        (SELECT string_agg(format(
             $f$(NEW.%1$I < '0001-01-01 00:00:00+00' AND NEW.%1$I > '-infinity')
                OR (NEW.%1$I >= '10000-01-01 00:00:00+00' AND NEW.%1$I < 'infinity')$f$, name), ' OR ')
         FROM unnest('{created_at,updated_at,run_after,expires_at,locked_at,begun_at,finished_at}'::text[]) name));
END $$

-- step: how often the handlers of a type may do so
ALTER TABLE task_types
    ADD COLUMN IF NOT EXISTS max_snoozes integer CHECK (max_snoozes >= 1),
    ADD COLUMN IF NOT EXISTS cost double precision CHECK (cost >= 0 AND cost <= 1e15)

-- step: limits on what tasks cost within a period
ALTER TABLE limits
    DROP CONSTRAINT IF EXISTS limits_kind_check,
    ADD CONSTRAINT limits_kind_check CHECK (kind IN ('running', 'rate', 'cost')),
    DROP CONSTRAINT IF EXISTS limits_rate_has_a_period,
    ADD CONSTRAINT limits_rate_has_a_period CHECK ((kind = 'running') = (period_s IS NULL))

-- step: what has been spent, in sixtieths of the period; written by claims, and by settlements of what was reported
CREATE TABLE IF NOT EXISTS limit_spending (
    name text NOT NULL REFERENCES limits (name) ON DELETE CASCADE,
    key text NOT NULL,
    at timestamptz NOT NULL,
    units double precision NOT NULL,
    PRIMARY KEY (name, key, at)
)

-- step: what is closed until a moment, as a handler asked for: a key of a type, or a limit
CREATE TABLE IF NOT EXISTS closures (
    kind text NOT NULL CHECK (kind IN ('type', 'limit')),
    name text NOT NULL,
    key text NOT NULL DEFAULT '',
    until timestamptz NOT NULL,
    reason text,
    closed_at timestamptz NOT NULL DEFAULT queue_now(),
    PRIMARY KEY (kind, name, key)
)

-- step: lanes claim again at once from what is opened. A closure wakes nobody: the next claim reads it
CREATE OR REPLACE TRIGGER closures_wake AFTER UPDATE OR DELETE ON closures
    FOR EACH STATEMENT EXECUTE FUNCTION tasks_wake()

-- step: note on snoozes
COMMENT ON COLUMN tasks.snoozed IS 'How often its handler put it off ("not now"), its attempt not charged.'

-- step: note on deadlines
COMMENT ON COLUMN tasks.expires_at IS 'No attempt begins then or later: it becomes a dead letter. NULL: never.'

-- step: note on costs
COMMENT ON COLUMN tasks.cost IS
    'Estimate of what it spends, in the units of limits on cost. NULL: as its type has it, else 1.'

-- step: note on costs of a type
COMMENT ON COLUMN task_types.cost IS 'Estimate of what a task spends, in the units of limits on cost. NULL: 1.'

-- step: note on snoozes allowed
COMMENT ON COLUMN task_types.max_snoozes IS 'How often a handler may put a task off before it is a dead letter. NULL: 100.'

-- step: note on limits
COMMENT ON TABLE limits IS
    'What may run at once (running), begin (rate) or be spent (cost) within a period, of some types or all, together or each key.'

-- step: note on amounts
COMMENT ON COLUMN limits.amount IS 'Most tasks at once, or tasks or units in a period. 0: closed.'

-- step: note on closures
COMMENT ON TABLE closures IS
    'Of these keys and limits no task is claimed before a moment, as a handler has asked. Delete a row to open it.'

-- step: note on kinds
COMMENT ON COLUMN closures.kind IS '`type`: the tasks of a type with this key. `limit`: all that a limit is on, or its key.'
