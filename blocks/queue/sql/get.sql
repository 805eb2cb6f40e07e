-- The tasks whose ids have a prefix: those from the lowest to the highest id with it.
SELECT (read.task).*, read.attempts_allowed, read.attempts_made,
       saved.step, saved.fraction, saved.note, saved.saved_at, saved.reported_at, saved.resumed_step,
       coalesce((SELECT number FROM task_chunks WHERE task_id = (read.task).id AND task_chunks.claim = (read.task).claim
                 ORDER BY number DESC LIMIT 1), 0) AS chunks,
       wait.name AS wait_name, wait.since AS wait_since, wait.until AS wait_until, wait.or_fail AS wait_or_fail
FROM read_task(:lowest, :highest, :default_max_attempts) read
LEFT JOIN task_checkpoints saved ON saved.task_id = (read.task).id
LEFT JOIN task_waits wait ON wait.task_id = (read.task).id AND (read.task).waits_for IS NOT NULL AND (read.task).status = 'queued'
