-- NULL leaves a value to the queue of the lane.
INSERT INTO task_types (type, max_attempts, timeout_s, backoff_base_s, backoff_cap_s, max_interruptions, max_snoozes, cost,
                        key_path, cost_path, aging_s, affinity_s, affinity_keys, earliest_deadline, timeout_by_deadline, declared)
VALUES (:type, :max_attempts, :timeout_s, :backoff_base_s, :backoff_cap_s, :max_interruptions, :max_snoozes, :cost,
        :key_path, :cost_path, :aging_s, :affinity_s, :affinity_keys, :earliest_deadline, :timeout_by_deadline,
        :declared)
ON CONFLICT (type) DO UPDATE SET max_attempts = excluded.max_attempts, timeout_s = excluded.timeout_s,
    backoff_base_s = excluded.backoff_base_s, backoff_cap_s = excluded.backoff_cap_s,
    max_interruptions = excluded.max_interruptions, max_snoozes = excluded.max_snoozes,
    cost = excluded.cost, key_path = excluded.key_path, cost_path = excluded.cost_path,
    aging_s = excluded.aging_s, affinity_s = excluded.affinity_s, affinity_keys = excluded.affinity_keys,
    earliest_deadline = excluded.earliest_deadline, timeout_by_deadline = excluded.timeout_by_deadline,
    declared = excluded.declared
