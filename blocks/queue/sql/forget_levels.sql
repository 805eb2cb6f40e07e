-- Deletes levels of rates that are full again by now, whatever their burst. Without a row, a level is full.
WITH refilled AS MATERIALIZED (
    SELECT name, greatest(amount, coalesce((
               SELECT max(own.amount) FROM limit_exceptions own WHERE own.name = limits.name), 0)) * period_s AS within_s
    FROM limits WHERE kind = 'rate'
)
DELETE FROM limit_levels USING refilled
WHERE limit_levels.name = refilled.name
  AND extract(epoch FROM at)::float8 < extract(epoch FROM queue_now())::float8 - refilled.within_s
RETURNING limit_levels.key
