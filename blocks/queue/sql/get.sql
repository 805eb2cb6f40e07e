-- The tasks whose ids have a prefix: those from the lowest to the highest id with it.
SELECT (read.task).*, read.attempts_allowed, read.attempts_made,
       saved.step, saved.fraction, saved.note, saved.saved_at, saved.reported_at, saved.resumed_step
FROM read_task(:lowest, :highest, :default_max_attempts) read
LEFT JOIN task_checkpoints saved ON saved.task_id = (read.task).id
