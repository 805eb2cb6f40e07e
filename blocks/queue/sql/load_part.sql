-- Notes how far a file is loaded, from `loaded` lines so far to `lines`. Returns no row if another process has loaded
-- some of it meanwhile. The digest is that of all these lines.
INSERT INTO task_files (name, lines, digest)
SELECT :name, :lines, :digest WHERE :loaded::bigint = 0 OR EXISTS (SELECT FROM task_files WHERE name = :name)
ON CONFLICT (name) DO UPDATE SET lines = excluded.lines, digest = excluded.digest, loaded_at = queue_now()
    WHERE task_files.lines = :loaded
RETURNING lines
