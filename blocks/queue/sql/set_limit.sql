-- Sets a limit, and the amounts of single keys with it. One that a file has declared stays so.
WITH set_now AS (
    INSERT INTO limits (name, kind, types, by_key, amount, period_s, burst, declared)
    VALUES (:name, :kind, :types::text[], :by_key, :amount, :period_s, :burst, :declared)
    ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, types = excluded.types, by_key = excluded.by_key,
        amount = excluded.amount, period_s = excluded.period_s, burst = excluded.burst, declared = limits.declared OR excluded.declared,
        set_at = queue_now()
    RETURNING name
), gone AS (
    DELETE FROM limit_exceptions WHERE name = :name AND key <> ALL (:keys::text[])
)
INSERT INTO limit_exceptions (name, key, amount)
SELECT set_now.name, own.key, own.amount
FROM set_now CROSS JOIN unnest(:keys::text[], :amounts::int[]) AS own(key, amount)
ON CONFLICT (name, key) DO UPDATE SET amount = excluded.amount
