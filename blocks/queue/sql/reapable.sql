-- $1 whether to look for tasks too whose holder is no lane at all: ids of what reap.sql would take
SELECT id FROM tasks
WHERE locked_by IS NOT NULL AND status = 'running'
  AND (locked_by IN (SELECT lanes.id FROM lanes WHERE lease_until < queue_now())
       OR ($1 AND locked_by NOT IN (SELECT lanes.id FROM lanes)))
