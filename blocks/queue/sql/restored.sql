-- The newest checkpoints of these tasks, where they have one.
SELECT task_id::text AS id, step, state::text AS state FROM task_checkpoints
WHERE task_id = ANY (:ids::uuid[]) AND state IS NOT NULL
