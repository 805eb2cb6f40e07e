-- Queues failed or cancelled tasks again, as new ones with a history. A task is left alone if an unfinished task has
-- its key, as in a submission. If two have one key, only the first is queued again.
WITH chosen AS (
    SELECT id, type, dedup_key FROM tasks
    WHERE id = ANY (:ids::uuid[]) AND status IN ('failed', 'cancelled')
    ORDER BY id
    FOR UPDATE
), judged AS (
    SELECT id, dedup_key IS NOT NULL AND (
            EXISTS (SELECT FROM tasks t WHERE t.type = chosen.type AND t.dedup_key = chosen.dedup_key
                    AND t.status IN ('created', 'queued', 'running', 'retry'))
            OR EXISTS (SELECT FROM chosen c WHERE c.type = chosen.type AND c.dedup_key = chosen.dedup_key AND c.id < chosen.id)
        ) AS kept_out
    FROM chosen
), retried AS (
    UPDATE tasks t
    SET status = 'queued', attempts = 0, timed_out = 0, lease_lost = 0, interrupted = 0, snoozed = 0, expires_at = NULL, waits_for = NULL, suspicion = 0, error = NULL, result = NULL,
        organ_id = NULL, path = NULL, elapsed_ms = NULL, finished_at = NULL, cancel_requested = false,
        run_after = queue_now(), updated_at = queue_now()
    FROM judged WHERE t.id = judged.id AND NOT judged.kept_out
)
SELECT id, NOT kept_out AS retried FROM judged
