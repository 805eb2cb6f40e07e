-- $1 lane: tasks it holds that are to be cancelled
SELECT id::text, claim FROM tasks WHERE cancel_requested AND locked_by = $1 AND status = 'running'
