-- Ends the lease of a lane. If it still holds tasks, its row stays until a reap has taken them back.
WITH gone AS (
    DELETE FROM lanes WHERE id = :lane AND NOT EXISTS (SELECT FROM tasks WHERE locked_by = :lane) RETURNING id
)
UPDATE lanes SET lease_until = 'epoch' WHERE id = :lane AND NOT EXISTS (SELECT FROM gone)
