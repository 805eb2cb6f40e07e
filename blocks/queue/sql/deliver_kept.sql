-- Resumes those of these tasks that have just begun to wait for an event that was there before. A statement of its own, in
-- the transaction of the settlement: only one that begins after it has the locks sees an event that came meanwhile.
WITH kept AS (
    UPDATE task_events e SET delivered_at = queue_now()
    FROM tasks t
    WHERE t.id = ANY (:ids::uuid[]) AND t.status = 'queued' AND e.task_id = t.id AND e.name = t.waits_for
      AND e.delivered_at IS NULL
    RETURNING e.task_id
)
UPDATE tasks SET waits_for = NULL, run_after = queue_now() WHERE id = ANY (ARRAY(SELECT task_id FROM kept))
RETURNING id::text
