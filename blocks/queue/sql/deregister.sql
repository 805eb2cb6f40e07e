-- $1 lane. A lane that still holds tasks only ends its lease: its row stays until a reap has taken them.
WITH gone AS (
    DELETE FROM lanes WHERE id = $1 AND NOT EXISTS (SELECT FROM tasks WHERE locked_by = $1) RETURNING id
)
UPDATE lanes SET lease_until = 'epoch' WHERE id = $1 AND NOT EXISTS (SELECT FROM gone)
