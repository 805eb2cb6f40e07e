-- How many tasks count against each limit on what runs, by key where the limit is by key: those with most, 20 at most.
-- Of a rate: how many tasks may begin now, for the keys that have least left.
SELECT limits.name, used.key, used.tasks
FROM limits CROSS JOIN LATERAL (
    (SELECT CASE WHEN limits.by_key THEN coalesce(tasks.key, '') ELSE '' END AS key, count(*)::float8 AS tasks
     FROM tasks
     WHERE limits.kind = 'running' AND locked_by IS NOT NULL AND status = 'running'
       AND (limits.types = '{}' OR tasks.type = ANY (limits.types))
     GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20)
    UNION ALL
    (SELECT spent.key, greatest(floor(spent.level), 0)
     FROM limit_levels spent
     WHERE limits.kind = 'rate' AND spent.name = limits.name
       AND spent.at > queue_now() - make_interval(secs => limits.period_s)
     ORDER BY spent.level, spent.key LIMIT 20)
    UNION ALL
    (SELECT spending.key, sum(spending.units)::float8
     FROM limit_spending spending
     WHERE limits.kind = 'cost' AND spending.name = limits.name
       AND spending.at > queue_now() - make_interval(secs => limits.period_s * 61 / 60)
     GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20)
) used
ORDER BY limits.name, used.tasks DESC, used.key
