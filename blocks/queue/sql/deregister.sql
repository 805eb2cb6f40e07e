-- Ends the lease of a lane. If it still holds tasks, its row stays until a reap has taken them back.
-- $1 lane.
WITH gone AS (
    DELETE FROM lanes WHERE id = $1 AND NOT EXISTS (SELECT FROM tasks WHERE locked_by = $1) RETURNING id
)
UPDATE lanes SET lease_until = 'epoch' WHERE id = $1 AND NOT EXISTS (SELECT FROM gone)
