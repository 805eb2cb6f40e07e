-- Opens what is closed; returns nothing if it is not.
DELETE FROM closures WHERE kind = :kind AND name = :name AND key = :key AND until > queue_now() RETURNING name
