-- Deletes closures that are over.
DELETE FROM closures WHERE until <= queue_now() RETURNING name
