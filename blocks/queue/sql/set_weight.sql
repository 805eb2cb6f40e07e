-- Sets the weight of a key. One of 1 is that of every other key, and needs no row.
WITH usual AS (
    DELETE FROM key_weights WHERE key = :key AND :weight::int = 1
)
INSERT INTO key_weights (key, weight) SELECT :key, :weight WHERE :weight > 1
ON CONFLICT (key) DO UPDATE SET weight = excluded.weight
