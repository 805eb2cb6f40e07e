-- The unfinished tasks that have these types and dedup keys.
SELECT type, dedup_key, id FROM tasks
JOIN unnest(:types::text[], :dedup_keys::text[]) AS wanted(type, dedup_key) USING (type, dedup_key)
WHERE dedup_key IS NOT NULL AND status IN ('created', 'queued', 'running', 'retry')
