-- Types and keys of all tasks that lanes hold. All of them count, be it that no handler has begun: one may at any
-- moment. Not counted here: the planner expects next to none to run, and sorts thousands to group them.
SELECT coalesce(array_agg(type), '{}') AS types, coalesce(array_agg(coalesce(key, '')), '{}') AS keys
FROM tasks
WHERE locked_by IS NOT NULL AND status = 'running'
