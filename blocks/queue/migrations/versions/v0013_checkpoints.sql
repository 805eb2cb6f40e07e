-- Runs in one transaction, under live lanes; it only adds. Lanes of the version before write nothing here.

-- step: what the handlers of a task have reported. Not columns of tasks: its rows stay narrow, and a task that reports
-- nothing costs nothing
CREATE TABLE IF NOT EXISTS task_checkpoints (
    task_id uuid PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    claim bigint NOT NULL,
    step bigint NOT NULL DEFAULT 0,
    furthest bigint NOT NULL DEFAULT 0,
    state jsonb,
    saved_at timestamptz,
    fraction double precision CHECK (fraction BETWEEN 0 AND 1),
    note text,
    reported_at timestamptz NOT NULL DEFAULT queue_now()
) WITH (fillfactor = 50)

-- step: note on checkpoints
COMMENT ON TABLE task_checkpoints IS
    'The newest checkpoint and progress of each task whose handler has reported some. Written under the claim.'

-- step: note on steps
COMMENT ON COLUMN task_checkpoints.step IS 'How many different states led to this one, over all attempts.'

-- step: note on the furthest
COMMENT ON COLUMN task_checkpoints.furthest IS 'Greatest step of any attempt. One that goes beyond it got further.'
