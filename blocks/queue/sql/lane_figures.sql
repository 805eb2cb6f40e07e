-- The sums of what lanes have counted, those that are gone and those that exist, in one snapshot.
SELECT name, sum(value) AS value
FROM (
    -- Bounded: numbers and sums beyond the range of a float raise errors, and so do numbers too close to zero.
    SELECT name, least(greatest(value, -1e300), 1e300) AS value FROM lane_totals
    UNION ALL
    SELECT figure.key, CASE WHEN abs(figure.value::numeric) < 1e-300 THEN 0
                       ELSE least(greatest(figure.value::numeric, -1e300), 1e300)::float8 END
    FROM lanes CROSS JOIN LATERAL jsonb_each(lanes.figures) figure
    WHERE jsonb_typeof(figure.value) = 'number'
) counted
GROUP BY name
