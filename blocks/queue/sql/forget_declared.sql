-- Removes the limits that a file declared before and does no more, and with them what was closed by their names.
WITH gone AS (
    DELETE FROM limits WHERE declared AND name <> ALL (:names::text[]) RETURNING name
), opened AS (
    DELETE FROM closures WHERE kind = 'limit' AND name IN (SELECT name FROM gone)
)
SELECT name FROM gone
