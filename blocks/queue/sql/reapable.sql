-- Ids of the tasks that reap.sql would take back.
SELECT id FROM tasks
WHERE locked_by IS NOT NULL AND status = 'running'
  AND (locked_by IN (SELECT lanes.id FROM lanes WHERE lease_until < queue_now())
       OR (:strays AND locked_by NOT IN (SELECT lanes.id FROM lanes)))
