-- Tasks that a dispatch which runs until the queue is empty has yet to settle
SELECT (SELECT count(*) FROM tasks WHERE locked_by IS NOT NULL AND status = 'running')
     + (SELECT count(*) FROM tasks WHERE status = 'retry')
     + (SELECT count(*) FROM tasks WHERE status = 'queued' AND run_after <= queue_now())
