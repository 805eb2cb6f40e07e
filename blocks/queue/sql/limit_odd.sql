-- Which keys of these limits have an amount of their own or are closed: so many at most.
SELECT name, key FROM limit_exceptions WHERE name = ANY (:names::text[])
UNION ALL
SELECT name, key FROM closures WHERE kind = 'limit' AND name = ANY (:names::text[]) AND until > queue_now()
LIMIT :most
