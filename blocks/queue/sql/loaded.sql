-- $1 file
SELECT lines, digest FROM task_files WHERE name = $1
