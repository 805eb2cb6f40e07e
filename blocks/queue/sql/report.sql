-- $1 lane, $2 tasks settled, $3 its figures: the last it says of itself before it leaves.
UPDATE lanes SET settled = $2, figures = $3::jsonb WHERE id = $1
