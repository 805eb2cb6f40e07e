-- Runs in one transaction, under live lanes; it only adds. Lanes of the version before know nothing of limits.

-- step: what may run at once, or begin within a period
CREATE TABLE IF NOT EXISTS limits (
    name text PRIMARY KEY CHECK (btrim(name) <> '' AND octet_length(name) <= 200),
    kind text NOT NULL CHECK (kind IN ('running', 'rate')),
    types text[] NOT NULL DEFAULT '{}',
    by_key boolean NOT NULL DEFAULT false,
    amount integer NOT NULL CHECK (amount >= 0),
    period_s double precision CHECK (period_s > 0 AND period_s <= 31622400),
    burst integer CHECK (burst >= 1),
    set_at timestamptz NOT NULL DEFAULT queue_now(),
    CONSTRAINT limits_rate_has_a_period CHECK ((kind = 'rate') = (period_s IS NOT NULL)),
    CONSTRAINT limits_burst_is_of_a_rate CHECK (kind = 'rate' OR burst IS NULL)
)

-- step: keys with an amount of their own
CREATE TABLE IF NOT EXISTS limit_exceptions (
    name text NOT NULL REFERENCES limits (name) ON DELETE CASCADE,
    key text NOT NULL CHECK (octet_length(key) <= 500),
    amount integer NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (name, key)
)

-- step: how much of a rate is left; written by claims, one row for each key that has used some of it
CREATE TABLE IF NOT EXISTS limit_levels (
    name text NOT NULL REFERENCES limits (name) ON DELETE CASCADE,
    key text NOT NULL,
    level double precision NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (name, key)
) WITH (fillfactor = 50)

-- step: lanes read limits when something wakes them
CREATE OR REPLACE TRIGGER limits_wake AFTER INSERT OR UPDATE OR DELETE ON limits
    FOR EACH STATEMENT EXECUTE FUNCTION tasks_wake()

-- step: and exceptions
CREATE OR REPLACE TRIGGER limit_exceptions_wake AFTER INSERT OR UPDATE OR DELETE ON limit_exceptions
    FOR EACH STATEMENT EXECUTE FUNCTION tasks_wake()

-- step: note on limits
COMMENT ON TABLE limits IS
    'What may run at once (running) or begin within a period (rate), of some types or all, together or each key.'

-- step: note on types
COMMENT ON COLUMN limits.types IS 'Types of the tasks that share it. Empty: every type.'

-- step: note on keys
COMMENT ON COLUMN limits.by_key IS 'True: each key has the amount for itself; tasks without a key share one.'

-- step: note on amounts
COMMENT ON COLUMN limits.amount IS 'Most tasks at once, or in a period. 0: closed.'

-- step: note on bursts
COMMENT ON COLUMN limits.burst IS 'Most tasks of a rate that begin at one moment. NULL: those of a tenth of a second.'
