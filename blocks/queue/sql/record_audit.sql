INSERT INTO task_audit (action, actor, details, tasks) VALUES (:action, :actor, :details::jsonb, :tasks)
