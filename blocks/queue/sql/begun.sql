-- $1 uuid[] ids, $2 bigint[] claims: handlers have begun with these tasks. Of tasks that run for some seconds only:
-- of the others nobody could read it in time.
UPDATE tasks t SET begun_at = queue_now()
FROM unnest((SELECT $1::uuid[]), (SELECT $2::bigint[])) AS r(id, claim)
WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
