-- Records what claimed tasks are expected to spend, in the sixtieth of the period that it is now.
INSERT INTO limit_spending (name, key, at, units)
SELECT limits.name, charge.key, {spending_slot}, charge.units
FROM unnest(:names::text[], :keys::text[], :units::float8[]) AS charge(name, key, units)
JOIN limits USING (name)
CROSS JOIN LATERAL (SELECT queue_now()) spent(moment)
ORDER BY 1, 2
ON CONFLICT (name, key, at) DO UPDATE SET units = limit_spending.units + excluded.units
