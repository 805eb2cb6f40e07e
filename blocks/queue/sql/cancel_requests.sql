-- The tasks that a lane holds and that are to be cancelled.
-- $1 lane.
SELECT id::text, claim FROM tasks WHERE cancel_requested AND locked_by = $1 AND status = 'running'
