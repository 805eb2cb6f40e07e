-- Tasks that a dispatch run must still settle before the queue is empty.
SELECT (SELECT count(*) FROM tasks WHERE locked_by IS NOT NULL AND status = 'running')
     + (SELECT count(*) FROM tasks WHERE status = 'retry')
     + (SELECT count(*) FROM tasks WHERE status = 'queued' AND run_after <= queue_now())
