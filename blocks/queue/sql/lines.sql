-- The lines of waiting tasks, one per type, priority, domain and key, with the moment at which the first task of each
-- is due. Jumps from line to line in the index instead of reading the lines. Of a type and priority it reads no more
-- than `at_once`; next_lines.sql reads the others.
WITH RECURSIVE line AS (
    (SELECT type, priority, coalesce(domain, '') AS domain, coalesce(key, '') AS key, run_after, 1 AS number
     FROM tasks WHERE status IN ('queued', 'retry')
     ORDER BY type, priority, coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1)
    UNION ALL
    SELECT following.*,
           CASE WHEN (following.type, following.priority) = (line.type, line.priority) THEN line.number + 1 ELSE 1 END
    FROM line CROSS JOIN LATERAL (
        (SELECT type, priority, coalesce(domain, ''), coalesce(key, ''), run_after FROM tasks
         WHERE line.number < :at_once AND status IN ('queued', 'retry')
           AND (type, priority, coalesce(domain, ''), coalesce(key, '')) > (line.type, line.priority, line.domain, line.key)
         ORDER BY type, priority, coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1)
        UNION ALL
        (SELECT type, priority, coalesce(domain, ''), coalesce(key, ''), run_after FROM tasks
         WHERE line.number >= :at_once AND status IN ('queued', 'retry') AND (type, priority) > (line.type, line.priority)
         ORDER BY type, priority, coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1)
    ) following
)
SELECT type, priority, domain, line.key,
       CASE WHEN type = ANY (ARRAY(SELECT name FROM pauses WHERE kind = 'type'))
              OR domain = ANY (ARRAY(SELECT name FROM pauses WHERE kind = 'domain')) THEN 'Infinity'
            -- Both are extracted separately: before version 17 infinity cannot be subtracted.
            ELSE extract(epoch FROM greatest(run_after, closed.until)) - extract(epoch FROM queue_now()) END::float8 AS due_s,
       coalesce(heavy.weight, 1) AS weight,
       policy.aging_s, policy.affinity_s, coalesce(policy.affinity_keys, 2) AS affinity_keys,
       coalesce(policy.earliest_deadline, false) AS earliest_deadline,
       coalesce(policy.timeout_by_deadline, false) AS timeout_by_deadline
FROM line
LEFT JOIN key_weights heavy ON heavy.key = line.key
LEFT JOIN task_types policy USING (type)
LEFT JOIN closures closed
    ON closed.kind = 'type' AND closed.name = line.type AND closed.key = line.key AND closed.until > queue_now()
