SELECT count(*) FROM tasks WHERE domain = :domain AND finished_at IS NOT NULL
