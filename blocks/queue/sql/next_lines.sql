-- Lines of a type and priority that has many: those from a line on, and those of the tasks that are due first, which
-- thus need not wait until the lane has come round to them. At most so many of either kind.
WITH RECURSIVE line AS (
    (SELECT type, priority, coalesce(domain, '') AS domain, coalesce(key, '') AS key, run_after
     FROM tasks
     WHERE status IN ('queued', 'retry')
       AND (type, priority, coalesce(domain, ''), coalesce(key, '')) >= (:type::text, :priority::int, :domain::text, :key::text)
     ORDER BY type, priority, coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1)
    UNION ALL
    SELECT following.* FROM line CROSS JOIN LATERAL (
        SELECT type, priority, coalesce(domain, ''), coalesce(key, ''), run_after FROM tasks
        WHERE status IN ('queued', 'retry')
          AND (type, priority, coalesce(domain, ''), coalesce(key, '')) > (line.type, line.priority, line.domain, line.key)
        ORDER BY type, priority, coalesce(domain, ''), coalesce(key, ''), run_after, id LIMIT 1
    ) following
    WHERE (line.type, line.priority) = (:type, :priority)
), walked AS (
    SELECT * FROM line WHERE (type, priority) = (:type, :priority) LIMIT :limit
), first_due AS (
    SELECT DISTINCT ON (domain, key) domain, key, run_after
    FROM (
        SELECT coalesce(domain, '') AS domain, coalesce(key, '') AS key, run_after FROM tasks
        WHERE status IN ('queued', 'retry') AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '')
          AND type = :type AND priority = :priority
        ORDER BY run_after LIMIT :limit
    ) waiting
    ORDER BY domain, key, run_after
)
SELECT domain, found.key, walked, closed.until IS NOT NULL AS closed,
       CASE WHEN :type = ANY (ARRAY(SELECT name FROM pauses WHERE kind = 'type'))
              OR domain = ANY (ARRAY(SELECT name FROM pauses WHERE kind = 'domain')) THEN 'Infinity'
            ELSE extract(epoch FROM greatest(run_after, closed.until)) - extract(epoch FROM queue_now()) END::float8 AS due_s,
       coalesce(heavy.weight, 1) AS weight,
       policy.aging_s, policy.affinity_s, coalesce(policy.affinity_keys, 2) AS affinity_keys,
       coalesce(policy.earliest_deadline, false) AS earliest_deadline,
       coalesce(policy.timeout_by_deadline, false) AS timeout_by_deadline
FROM (SELECT domain, key, run_after, true FROM walked
      UNION ALL
      SELECT domain, key, run_after, false FROM first_due
      WHERE (domain, key) NOT IN (SELECT domain, key FROM walked)) AS found(domain, key, run_after, walked)
LEFT JOIN key_weights heavy ON heavy.key = found.key
LEFT JOIN task_types policy ON policy.type = :type
LEFT JOIN closures closed
    ON closed.kind = 'type' AND closed.name = :type AND closed.key = found.key AND closed.until > queue_now()
ORDER BY walked, domain, found.key
