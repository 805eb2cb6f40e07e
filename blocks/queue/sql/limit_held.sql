-- Types and keys of all tasks that lanes hold, besides those of one lane. All of them count, be it that no handler has
-- begun: one may at any moment. Not counted here: the planner expects next to none to run, and sorts thousands to group
-- them. Two ranges of an index, because <> is none: it would read the tasks of that lane, which are most.
SELECT coalesce(array_agg(type), '{}') AS types, coalesce(array_agg(coalesce(key, '')), '{}') AS keys
FROM (
    SELECT type, key FROM tasks WHERE status = 'running' AND locked_by < :besides::text
    UNION ALL
    SELECT type, key FROM tasks WHERE status = 'running' AND locked_by > :besides::text
) held
