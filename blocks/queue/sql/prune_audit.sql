DELETE FROM task_audit
WHERE id = ANY (ARRAY(
    SELECT id FROM task_audit WHERE at < queue_now() - make_interval(secs => :older_than_s) ORDER BY at LIMIT :limit
))
RETURNING id
