-- The tasks whose ids have a prefix: those from the lowest to the highest id with it.
SELECT (task).*, attempts_allowed, attempts_made FROM read_task(:lowest, :highest, :default_max_attempts)
