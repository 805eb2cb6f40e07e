-- Queues tasks that were only created. The trigger on updates that make a task ready wakes the lanes.
UPDATE tasks SET status = 'queued', run_after = greatest(run_after, queue_now()), updated_at = queue_now()
WHERE id = ANY (:ids::uuid[]) AND status = 'created'
RETURNING id
