-- Records that handlers have begun with these tasks. Called only for tasks that run for some seconds: the others end
-- before it could be read.
UPDATE tasks t SET begun_at = queue_now(), handler_version = r.version
FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[]), (SELECT :versions::text[])) AS r(id, claim, version)
WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
