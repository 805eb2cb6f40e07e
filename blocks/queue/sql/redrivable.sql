SELECT count(*) FROM tasks
WHERE {redrive_filter}
