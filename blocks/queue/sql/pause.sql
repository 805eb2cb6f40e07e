INSERT INTO pauses (kind, name, reason) VALUES (:kind, :name, :reason)
ON CONFLICT (kind, name) DO UPDATE SET reason = coalesce(excluded.reason, pauses.reason)
