-- $1 age in seconds, $2 limit. One that is being loaded is locked, and is looked at again after that.
DELETE FROM task_files
WHERE name = ANY (ARRAY(
    SELECT name FROM task_files
    WHERE loaded_at < queue_now() - make_interval(secs => $1)
    ORDER BY loaded_at LIMIT $2
    FOR UPDATE SKIP LOCKED
))
RETURNING name
