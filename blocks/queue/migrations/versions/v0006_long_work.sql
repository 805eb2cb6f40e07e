-- Runs in one transaction, under live lanes; it only adds. The index is made after it, concurrently.

-- step: give up soon rather than queue every lane behind us
SET LOCAL lock_timeout = '10s'

-- step: when a handler began with a task, and how often one was interrupted
ALTER TABLE tasks
    ADD COLUMN IF NOT EXISTS begun_at timestamptz,
    ADD COLUMN IF NOT EXISTS interrupted integer NOT NULL DEFAULT 0

-- step: how often the tasks of a type may be interrupted
ALTER TABLE task_types
    ADD COLUMN IF NOT EXISTS max_interruptions integer CHECK (max_interruptions >= 1)

-- step: lanes that leave, and runs that relieve one another
ALTER TABLE lanes
    ADD COLUMN IF NOT EXISTS leave_requested boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS leaving_at timestamptz,
    ADD COLUMN IF NOT EXISTS relay boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS run_started_at timestamptz

-- step: note on the beginning
COMMENT ON COLUMN tasks.begun_at IS
    'When a handler began with the task, of tasks that run for some seconds. Before locked_at: of an earlier claim.'

-- step: note on interruptions
COMMENT ON COLUMN tasks.interrupted IS
    'How often it was stopped for no fault of its own while a handler had, or may have, begun with it; uncharged.'

-- step: note on suspicion
COMMENT ON COLUMN tasks.suspicion IS
    'How many replicas have died with this task on them. Above 0 it runs apart from others that have one.'

-- step: note on interruptions allowed
COMMENT ON COLUMN task_types.max_interruptions IS 'NULL: as often as it happens.'

-- step: note on leaving
COMMENT ON COLUMN lanes.leaving_at IS
    'Since when the lane claims nothing any more and waits for its calls to end.'

-- step: note on relays
COMMENT ON COLUMN lanes.relay IS 'Its run is one of those that relieve one another, as the schedule of dispatch starts them.'
