-- Renews a lease. Returns no row if the lane was reaped and holds nothing any more. A lease that has ended but was not
-- reaped yet may be renewed: a reap ends it for good under a lock. So either the lane still holds all its tasks, or it
-- learns here that it does not. Without figures, the last ones stay.
UPDATE lanes
SET lease_until = queue_now() + make_interval(secs => :lease_s), renewed_at = queue_now(), settled = :settled,
    figures = coalesce(:figures::jsonb, figures),
    leaving_at = CASE WHEN :leaving THEN coalesce(leaving_at, queue_now()) END
WHERE id = :lane AND lease_until > 'epoch'
RETURNING stop_requested, leave_requested
