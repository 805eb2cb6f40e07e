-- $1 kind, $2 name, $3 reason
INSERT INTO pauses (kind, name, reason) VALUES ($1, $2, $3)
ON CONFLICT (kind, name) DO UPDATE SET reason = coalesce(excluded.reason, pauses.reason)
