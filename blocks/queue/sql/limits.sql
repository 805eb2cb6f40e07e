SELECT name, kind, types, by_key, amount, period_s, burst, declared,
       coalesce((SELECT json_object_agg(key, amount) FROM limit_exceptions own WHERE own.name = limits.name), '{}')::text
           AS exceptions
FROM limits ORDER BY name
