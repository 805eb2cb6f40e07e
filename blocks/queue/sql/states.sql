SELECT t.id, {shown_status} AS status, t.attempts, t.cancel_requested, t.locked_by AS lane, saved.fraction, saved.note
FROM tasks t LEFT JOIN task_checkpoints saved ON saved.task_id = t.id
WHERE t.id = ANY (:ids::uuid[])
