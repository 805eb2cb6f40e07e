-- $1 file, $2 its lines that are loaded already, $3 those that will be when this is committed, $4 the digest of them.
-- No row: somebody else has loaded some of it meanwhile.
INSERT INTO task_files (name, lines, digest)
SELECT $1, $3, $4 WHERE $2::bigint = 0 OR EXISTS (SELECT FROM task_files WHERE name = $1)
ON CONFLICT (name) DO UPDATE SET lines = excluded.lines, digest = excluded.digest, loaded_at = queue_now()
    WHERE task_files.lines = $2
RETURNING lines
