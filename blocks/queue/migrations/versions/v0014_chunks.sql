-- Runs in one transaction, under live lanes; it only adds. Lanes of the version before write nothing here.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: what handlers emit, a row for each report. Not a row a chunk: a report of a fast handler has hundreds
CREATE TABLE IF NOT EXISTS task_chunks (
    task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    claim bigint NOT NULL,
    number bigint NOT NULL,
    run_begin bigint NOT NULL,
    chunks jsonb NOT NULL,
    emitted_at timestamptz NOT NULL DEFAULT queue_now(),
    PRIMARY KEY (task_id, claim, number)
)

-- step: note on chunks
COMMENT ON TABLE task_chunks IS
    'What handlers have emitted, of the newest attempt of each task that emitted anything. Written under the claim.'

-- step: note on numbers
COMMENT ON COLUMN task_chunks.number IS 'Number of the last of these chunks within its claim. Chunks are numbered from 1.'

-- step: note on runs
COMMENT ON COLUMN task_chunks.run_begin IS
    'Number of the begin of the run that emitted them. Above 0 if the handler was run again under the same claim.'
