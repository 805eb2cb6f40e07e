SELECT type, max_attempts, timeout_s, backoff_base_s, backoff_cap_s, max_interruptions, max_snoozes, cost
FROM task_types ORDER BY type
