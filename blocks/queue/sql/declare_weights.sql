-- Sets the weights that a file declares, and removes those that it declared before and does no more.
WITH gone AS (
    DELETE FROM key_weights WHERE declared AND key <> ALL (:keys::text[])
)
INSERT INTO key_weights (key, weight, declared)
SELECT given.key, given.weight, true FROM unnest(:keys::text[], :weights::int[]) AS given(key, weight)
ON CONFLICT (key) DO UPDATE SET weight = excluded.weight, declared = true
