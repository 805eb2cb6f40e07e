-- Seconds until claimed tasks expire, of those that do.
SELECT id::text AS id, extract(epoch FROM expires_at - queue_now())::float8 AS left_s
FROM tasks WHERE id = ANY (:ids::uuid[]) AND expires_at IS NOT NULL AND expires_at < 'infinity'
