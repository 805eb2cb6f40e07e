-- $1 lowest uuid, $2 highest uuid of an id prefix, $3 attempts where neither task nor type says
SELECT (task).*, attempts_allowed, attempts_made FROM read_task($1, $2, $3)
