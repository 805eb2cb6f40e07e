id, type, params, description, domain, drift_score, priority, run_after, max_attempts, timeout_s, dedup_key,
    status, key, expires_at, cost, traceparent
