-- Deletes the notes of files loaded long ago. The note of a file that is being loaded is locked, and left to a later
-- call.
DELETE FROM task_files
WHERE name = ANY (ARRAY(
    SELECT name FROM task_files
    WHERE loaded_at < queue_now() - make_interval(secs => :older_than_s)
    ORDER BY loaded_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
))
RETURNING name
