-- $1 lowest uuid, $2 highest uuid of an id prefix
SELECT * FROM tasks WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 6
