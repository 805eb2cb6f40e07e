-- Records what is left of rates after a claim.
INSERT INTO limit_levels (name, key, level, at)
SELECT left_over.name, left_over.key, left_over.level, :now
FROM unnest(:names::text[], :keys::text[], :levels::float8[]) AS left_over(name, key, level)
ON CONFLICT (name, key) DO UPDATE SET level = excluded.level, at = greatest(limit_levels.at, excluded.at)
