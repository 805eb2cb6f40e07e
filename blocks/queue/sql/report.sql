-- Writes the final counters of a lane.
UPDATE lanes SET settled = :settled, figures = :figures::jsonb WHERE id = :lane
