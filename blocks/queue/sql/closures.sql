-- What is closed now; of one type, key and limits if they are given.
SELECT kind, name, key, until, reason, closed_at FROM closures
WHERE until > queue_now()
  AND (:type::text IS NULL
       OR (kind = 'type' AND name = :type AND key = :key)
       OR (kind = 'limit' AND (name, key) IN (SELECT * FROM unnest(:names::text[], :keys::text[]))))
ORDER BY until DESC, kind, name, key
LIMIT :limit
