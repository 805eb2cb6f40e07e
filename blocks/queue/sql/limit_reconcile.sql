-- Puts what tasks have spent in the place of their estimates. What was not spent is given back where it was charged.
-- What was spent beyond the estimate is charged now. Run before the settlement, in one transaction with it.
WITH done AS MATERIALIZED (
    SELECT t.type, coalesce(t.key, '') AS key, t.locked_at, r.spent - coalesce(t.cost, policy.cost, 1) AS units
    FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[]), (SELECT :spent::float8[])) AS r(id, claim, spent)
    JOIN tasks t ON t.id = r.id
    LEFT JOIN task_types policy ON policy.type = t.type
    WHERE t.claim = r.claim AND t.status = 'running' AND r.spent IS NOT NULL
    ORDER BY t.id
    FOR UPDATE OF t
), difference AS MATERIALIZED (
    SELECT limits.name, CASE WHEN limits.by_key THEN done.key ELSE '' END AS key, {spending_slot} AS at, sum(done.units) AS units
    FROM done JOIN limits ON limits.kind = 'cost' AND (limits.types = '{}' OR done.type = ANY (limits.types))
    CROSS JOIN LATERAL (SELECT CASE WHEN done.units < 0 THEN done.locked_at ELSE queue_now() END) spent(moment)
    GROUP BY 1, 2, 3
), given_back AS (
    UPDATE limit_spending kept SET units = greatest(kept.units + difference.units, 0)
    FROM difference
    WHERE difference.units < 0 AND kept.name = difference.name AND kept.key = difference.key AND kept.at = difference.at
)
INSERT INTO limit_spending (name, key, at, units)
SELECT name, key, at, units FROM difference WHERE units > 0 ORDER BY 1, 2, 3
ON CONFLICT (name, key, at) DO UPDATE SET units = limit_spending.units + excluded.units
