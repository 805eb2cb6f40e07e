-- $1 action, $2 actor, $3 details as JSON, $4 tasks.
INSERT INTO task_audit (action, actor, details, tasks) VALUES ($1, $2, $3::jsonb, $4)
