-- How many more tasks each limit allows now, for each key asked for (empty where the limit is not by key). Of a limit
-- on what runs, that is all it allows: limit_held.sql has what runs.
WITH asked AS (
    SELECT limits.name, wanted.key, limits.kind, limits.types, limits.by_key, limits.period_s,
           allowed.amount, burst.size AS burst
    FROM unnest(:names::text[], :keys::text[]) AS wanted(name, key)
    JOIN limits USING (name)
    LEFT JOIN limit_exceptions own ON own.name = limits.name AND own.key = wanted.key AND limits.by_key
    CROSS JOIN LATERAL (SELECT coalesce(own.amount, limits.amount)) allowed(amount)
    -- By default, what may begin in a tenth of a second: claims come in batches.
    CROSS JOIN LATERAL (
        SELECT least(allowed.amount, greatest(coalesce(limits.burst, ceil(allowed.amount * 0.1 / limits.period_s)), 1))
    ) burst(size)
)
SELECT asked.name, asked.key, asked.kind, asked.amount,
       CASE WHEN closed.until IS NOT NULL THEN 0
            WHEN asked.kind = 'running' THEN asked.amount
            WHEN asked.kind = 'cost' THEN asked.amount - coalesce(spent.units, 0)
            ELSE left_over.level END::float8 AS room,
       left_over.level, CASE WHEN asked.kind = 'rate' THEN refill.per_s END AS per_s,
       (extract(epoch FROM spent.falls_at) - extract(epoch FROM queue_now()))::float8 AS falls_s, queue_now() AS now,
       (extract(epoch FROM closed.until) - extract(epoch FROM queue_now()))::float8 AS opens_s
FROM asked
LEFT JOIN closures closed
    ON closed.kind = 'limit' AND closed.name = asked.name AND closed.key = asked.key AND closed.until > queue_now()
LEFT JOIN limit_levels used ON used.name = asked.name AND used.key = asked.key
CROSS JOIN LATERAL (
    -- What was spent in a sixtieth of the period counts until all of that is past.
    SELECT sum(spending.units) AS units, min(spending.at) + make_interval(secs => asked.period_s * 61 / 60) AS falls_at
    FROM limit_spending spending
    WHERE asked.kind = 'cost' AND spending.name = asked.name AND spending.key = asked.key AND spending.units > 0
      AND spending.at > queue_now() - make_interval(secs => asked.period_s * 61 / 60)
) spent
-- A full level, and what flows in meanwhile, are the amount: it is not exceeded in any period, wherever it begins.
CROSS JOIN LATERAL (SELECT (asked.amount - asked.burst + 1) / asked.period_s) refill(per_s)
CROSS JOIN LATERAL (
    SELECT least(asked.burst, coalesce(
        -- The clock may have been set back.
        used.level + greatest(extract(epoch FROM queue_now()) - extract(epoch FROM used.at), 0)::float8 * refill.per_s,
        asked.burst))
) left_over(level)
