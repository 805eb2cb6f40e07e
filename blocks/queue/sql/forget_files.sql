-- Deletes the notes of files loaded long ago. The note of a file that is being loaded is locked, and left to a later
-- call.
-- $1 age in seconds, $2 limit.
DELETE FROM task_files
WHERE name = ANY (ARRAY(
    SELECT name FROM task_files
    WHERE loaded_at < queue_now() - make_interval(secs => $1)
    ORDER BY loaded_at LIMIT $2
    FOR UPDATE SKIP LOCKED
))
RETURNING name
