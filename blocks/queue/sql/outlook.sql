SELECT EXISTS (SELECT FROM tasks WHERE locked_by IS NOT NULL AND status = 'running') AS running,
       EXISTS (SELECT FROM tasks WHERE status = 'retry') AS backing_off
