-- $1 lane: claims of its tasks that are to be cancelled
SELECT claim FROM tasks WHERE cancel_requested AND locked_by = $1 AND status = 'running'
