-- Removes the policies that a file declared before and does no more.
DELETE FROM task_types WHERE declared AND type <> ALL (:types::text[]) RETURNING type
