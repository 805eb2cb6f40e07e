-- Closes a key of a type, or a limit, until a moment, in place of an earlier closure. Returns nothing if there is no such
-- limit, or if it is by key and none is given, or the other way round.
INSERT INTO closures AS before (kind, name, key, until, reason)
SELECT :kind, :name, :key, :until, :reason
WHERE :kind::text = 'type' OR EXISTS (SELECT FROM limits WHERE limits.name = :name AND (by_key OR :key::text = ''))
ON CONFLICT (kind, name, key) DO UPDATE SET until = excluded.until, reason = excluded.reason, closed_at = queue_now()
RETURNING kind, name, key, until, reason, closed_at
