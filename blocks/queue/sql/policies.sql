SELECT type, max_attempts, timeout_s, backoff_base_s, backoff_cap_s, max_interruptions, max_snoozes, cost, key_path, cost_path,
       aging_s, affinity_s, affinity_keys, earliest_deadline, timeout_by_deadline, declared
FROM task_types ORDER BY type
