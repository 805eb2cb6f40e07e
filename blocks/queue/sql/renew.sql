-- Renews a lease. Returns no row if the lane was reaped and holds nothing any more. A lease that has ended but was not
-- reaped yet may be renewed: a reap ends it for good under a lock. So either the lane still holds all its tasks, or it
-- learns here that it does not.
-- $1 lane, $2 lease in seconds, $3 tasks settled so far, $4 its counters or NULL, $5 true if it is leaving.
UPDATE lanes
SET lease_until = queue_now() + make_interval(secs => $2), renewed_at = queue_now(), settled = $3,
    figures = coalesce($4::jsonb, figures), leaving_at = CASE WHEN $5 THEN coalesce(leaving_at, queue_now()) END
WHERE id = $1 AND lease_until > 'epoch'
RETURNING stop_requested, leave_requested
