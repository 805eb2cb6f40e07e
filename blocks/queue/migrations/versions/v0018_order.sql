-- Runs in one transaction, under live lanes and producers; it only adds. The index is made after it, concurrently. Lanes
-- of the version before claim in the order that was.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: the order of the tasks of a type, and what a deadline means for what runs
ALTER TABLE task_types
    ADD COLUMN IF NOT EXISTS aging_s double precision
        CHECK (aging_s > 0 AND aging_s <= 31622400),
    ADD COLUMN IF NOT EXISTS affinity_s double precision
        CHECK (affinity_s > 0 AND affinity_s <= 86400),
    ADD COLUMN IF NOT EXISTS affinity_keys integer CHECK (affinity_keys BETWEEN 1 AND 1000),
    ADD COLUMN IF NOT EXISTS earliest_deadline boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS timeout_by_deadline boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS declared boolean NOT NULL DEFAULT false

-- step: note on age
COMMENT ON COLUMN task_types.aging_s IS
    'Seconds of waiting that count as much as one more priority. NULL: a priority stays what it is.'

-- step: note on affinity
COMMENT ON COLUMN task_types.affinity_s IS
    'Tasks of one key run together: how long those of a key whose turn it is not may wait. NULL: they do not.'

-- step: note on the keys at once
COMMENT ON COLUMN task_types.affinity_keys IS 'Keys that a lane claims at a time, with affinity_s. NULL: 2.'

-- step: note on deadlines
COMMENT ON COLUMN task_types.earliest_deadline IS
    'True: of tasks with one priority, domain and key, the one that expires first is claimed first.'

-- step: note on timeouts
COMMENT ON COLUMN task_types.timeout_by_deadline IS
    'True: an attempt is stopped when its task expires, if its timeout has not done so before.'

-- step: note on declared policies
COMMENT ON COLUMN task_types.declared IS
    'True: from the file of the organism. The next deployment of it sets it, or sets it back.'
