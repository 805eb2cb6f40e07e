-- Adds tasks and returns the ids of those that were added.
INSERT INTO tasks ({new_task_columns})
SELECT t.id, t.type, t.params::jsonb, t.description, t.domain, t.drift_score, t.priority,
       coalesce(t.run_after, queue_now()), t.max_attempts, t.timeout_s, t.dedup_key, t.status::taskstatus, t.key, t.expires_at, t.cost,
       t.traceparent
FROM {new_tasks}
-- All producers use one order: two that add the same keys in different orders would each wait for the other.
ORDER BY t.type COLLATE "C", t.dedup_key COLLATE "C" NULLS FIRST, t.place
ON CONFLICT (type, dedup_key)
    WHERE dedup_key IS NOT NULL AND status IN ('created', 'queued', 'running', 'retry')
    DO NOTHING
RETURNING id
