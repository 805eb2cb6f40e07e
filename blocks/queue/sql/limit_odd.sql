-- Which of these keys of limits have an amount of their own or are closed.
SELECT name, key FROM limit_exceptions WHERE name = ANY (:names::text[]) AND key = ANY (:keys::text[])
UNION
SELECT name, key FROM closures
WHERE kind = 'limit' AND name = ANY (:names::text[]) AND key = ANY (:keys::text[]) AND until > queue_now()
