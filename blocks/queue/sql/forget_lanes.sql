-- Deletes rows of lanes that a reap has ended: they can neither renew nor claim any more. A reap deletes them itself,
-- unless SQL of the user has left their name on a task.
WITH dead AS MATERIALIZED (
    SELECT id FROM lanes
    WHERE lease_until = 'epoch' AND renewed_at < queue_now() - make_interval(secs => :dead_for_s)
      AND NOT EXISTS (SELECT FROM tasks WHERE locked_by = lanes.id AND status = 'running')
    FOR UPDATE SKIP LOCKED
)
DELETE FROM lanes WHERE id IN (SELECT id FROM dead) RETURNING id
