DELETE FROM limits WHERE name = :name RETURNING name
