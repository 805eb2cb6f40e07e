-- $1 lane
DELETE FROM lanes WHERE id = $1
