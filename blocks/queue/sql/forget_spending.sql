-- Deletes what was spent before the period of its limit.
DELETE FROM limit_spending USING limits
WHERE limits.name = limit_spending.name
  AND (limits.kind <> 'cost' OR limit_spending.at < queue_now() - make_interval(secs => limits.period_s * 61 / 60))
RETURNING limit_spending.key
