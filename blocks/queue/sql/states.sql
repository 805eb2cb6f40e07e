SELECT id, status::text, attempts, cancel_requested, locked_by AS lane FROM tasks WHERE id = ANY (:ids::uuid[])
