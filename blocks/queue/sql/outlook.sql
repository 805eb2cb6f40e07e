-- What is still to come: the answer to "may a lane that runs until the queue is empty stop?"
SELECT EXISTS (SELECT FROM tasks WHERE status = 'running') AS running,
       EXISTS (SELECT FROM tasks WHERE status IN ('queued', 'retry') AND run_after <= queue_now()) AS ready,
       EXISTS (SELECT FROM tasks WHERE status = 'retry') AS backing_off,
       extract(epoch FROM (SELECT min(run_after) FROM tasks WHERE status IN ('queued', 'retry')) - queue_now())::float8
           AS next_due_s
