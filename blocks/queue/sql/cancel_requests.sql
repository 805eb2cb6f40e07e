-- The tasks that a lane holds and that are to be cancelled.
SELECT id::text, claim FROM tasks WHERE cancel_requested AND locked_by = :lane AND status = 'running'
