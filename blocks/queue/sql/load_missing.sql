-- Adds the tasks that do not exist yet. As submit.sql, but also skips ids that exist.
INSERT INTO tasks ({new_task_columns})
SELECT t.id, t.type, t.params::jsonb, t.description, t.domain, t.drift_score, t.priority,
       t.run_after, t.max_attempts, t.timeout_s, t.dedup_key, t.status::taskstatus, t.key, t.expires_at, t.cost,
       t.traceparent
FROM {new_tasks}
-- All producers use one order: two that add the same keys in different orders would each wait for the other.
ORDER BY t.type COLLATE "C", t.dedup_key COLLATE "C" NULLS FIRST, t.id
ON CONFLICT DO NOTHING
RETURNING id
