-- The tasks whose ids have a prefix.
-- $1 lowest and $2 highest uuid with the prefix, $3 most attempts if neither the task nor its type says.
SELECT (task).*, attempts_allowed, attempts_made FROM read_task($1, $2, $3)
