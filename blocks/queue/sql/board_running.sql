-- Running tasks by type, by domain, and by lane.
SELECT type, domain, locked_by AS lane, grouping(type, domain, locked_by) AS sets, count(*) AS running
FROM (
    SELECT type, domain, locked_by FROM tasks WHERE locked_by IS NOT NULL AND status = 'running' LIMIT :limit
) held
GROUP BY GROUPING SETS ((type), (domain), (locked_by))
ORDER BY count(*) DESC
LIMIT 2000
