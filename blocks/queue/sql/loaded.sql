SELECT lines, digest FROM task_files WHERE name = :name
