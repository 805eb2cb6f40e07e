-- Writes the final counters of a lane.
-- $1 lane, $2 tasks settled, $3 its counters.
UPDATE lanes SET settled = $2, figures = $3::jsonb WHERE id = $1
