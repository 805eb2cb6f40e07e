-- Running tasks by type, by domain, and by lane.
-- $1 most tasks read.
SELECT type, domain, locked_by AS lane, grouping(type, domain, locked_by) AS sets, count(*) AS running
FROM (
    SELECT type, domain, locked_by FROM tasks WHERE locked_by IS NOT NULL AND status = 'running' LIMIT $1
) held
GROUP BY GROUPING SETS ((type), (domain), (locked_by))
ORDER BY count(*) DESC
LIMIT 2000
