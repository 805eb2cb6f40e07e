-- Sends an event to a task. The trigger task_events_deliver resumes the task if it waits for it. No row: it was sent before.
INSERT INTO task_events (task_id, name, payload) VALUES (:id, :name, :payload::text::jsonb)
RETURNING delivered_at IS NOT NULL AS resumed
