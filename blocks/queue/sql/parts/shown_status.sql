-- The status that is shown: a queued task that waits for an event is `waiting`.
CASE WHEN status = 'queued' AND waits_for IS NOT NULL THEN 'waiting' ELSE status::text END
