-- Tasks that a dispatch which runs until the queue is empty has yet to settle
SELECT count(*) FROM tasks
WHERE status IN ('running', 'retry') OR (status = 'queued' AND run_after <= queue_now())
