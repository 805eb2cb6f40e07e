-- Runs in one transaction, under live lanes; it only adds tables. The index is made after it, concurrently.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: what somebody did to many tasks at once
CREATE TABLE IF NOT EXISTS task_audit (
    id uuid PRIMARY KEY DEFAULT new_task_id(),
    at timestamptz NOT NULL DEFAULT queue_now(),
    action text NOT NULL CHECK (action <> ''),
    actor text NOT NULL CHECK (actor <> ''),
    details jsonb NOT NULL DEFAULT '{}',
    tasks bigint NOT NULL DEFAULT 0
)

-- step: how much of which file is in the table of tasks
CREATE TABLE IF NOT EXISTS task_files (
    name text PRIMARY KEY CHECK (name <> ''),
    lines bigint NOT NULL CHECK (lines >= 0),
    digest bytea NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT queue_now()
)

-- step: note on the audit
COMMENT ON TABLE task_audit IS
    'One row for each action on many tasks: who, when, which were meant, and how many it has been so far.'

-- step: note on files
COMMENT ON TABLE task_files IS
    'The first so many lines of a file have been loaded, and this is the SHA-256 of them.'
