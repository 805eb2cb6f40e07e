-- $1 age in seconds, $2 limit
DELETE FROM task_audit
WHERE id = ANY (ARRAY(
    SELECT id FROM task_audit WHERE at < queue_now() - make_interval(secs => $1) ORDER BY at LIMIT $2
))
RETURNING id
