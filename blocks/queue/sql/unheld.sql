-- Running tasks that no lane holds, by the holder that they name, most tasks first.
SELECT t.locked_by, count(*) AS tasks, min(t.locked_at) AS since
FROM tasks t
WHERE t.status = 'running' AND NOT EXISTS (SELECT FROM lanes l WHERE l.id = t.locked_by)
GROUP BY t.locked_by
ORDER BY tasks DESC, t.locked_by
LIMIT :limit
