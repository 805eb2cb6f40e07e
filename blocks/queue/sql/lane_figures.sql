-- What lanes have counted, those that are gone and those that are there, in one snapshot.
SELECT name, sum(value) AS value
FROM (
    SELECT name, value FROM lane_totals
    UNION ALL
    SELECT figure.key, figure.value::float8
    FROM lanes CROSS JOIN LATERAL jsonb_each(lanes.figures) figure
    WHERE jsonb_typeof(figure.value) = 'number'
) counted
GROUP BY name
