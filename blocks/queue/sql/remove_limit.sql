-- Removes a limit, and with it what was closed by its name.
WITH opened AS (
    DELETE FROM closures WHERE kind = 'limit' AND name = :name
)
DELETE FROM limits WHERE name = :name RETURNING name
