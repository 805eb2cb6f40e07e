-- Notes how far a file is loaded. Returns no row if another process has loaded some of it meanwhile.
-- $1 file, $2 lines loaded so far, $3 lines loaded once this is committed, $4 digest of those lines.
INSERT INTO task_files (name, lines, digest)
SELECT $1, $3, $4 WHERE $2::bigint = 0 OR EXISTS (SELECT FROM task_files WHERE name = $1)
ON CONFLICT (name) DO UPDATE SET lines = excluded.lines, digest = excluded.digest, loaded_at = queue_now()
    WHERE task_files.lines = $2
RETURNING lines
