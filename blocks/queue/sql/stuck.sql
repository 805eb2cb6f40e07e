-- Running tasks whose lane has no lease any more, or never had one.
SELECT count(*) FROM tasks t
WHERE t.locked_by IS NOT NULL AND t.status = 'running'
  AND NOT EXISTS (SELECT FROM lanes l WHERE l.id = t.locked_by AND l.lease_until > queue_now())
