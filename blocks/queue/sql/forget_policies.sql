-- Sets back to their defaults the policies that a file declared before and does no more. Operators delete none.
UPDATE task_types
SET max_attempts = NULL, timeout_s = NULL, backoff_base_s = NULL, backoff_cap_s = NULL, max_interruptions = NULL,
    max_snoozes = NULL, cost = NULL, key_path = NULL, cost_path = NULL, aging_s = NULL, affinity_s = NULL,
    affinity_keys = NULL, earliest_deadline = false, timeout_by_deadline = false, declared = false
WHERE declared AND type <> ALL (:types::text[])
RETURNING type
