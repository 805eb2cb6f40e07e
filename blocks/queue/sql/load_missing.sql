-- Adds the tasks that do not exist yet. As submit.sql, but also skips ids that exist.
INSERT INTO tasks
    (id, type, params, description, domain, drift_score, priority, run_after, max_attempts, timeout_s, dedup_key, status, key)
SELECT t.id, t.type, t.params::jsonb, t.description, t.domain, t.drift_score, t.priority, t.run_after,
       t.max_attempts, t.timeout_s, t.dedup_key, t.status::taskstatus, t.key
FROM unnest(:id::uuid[], :type::text[], :params::text[], :description::text[], :domain::text[],
            :drift_score::float8[], :priority::int[], :run_after::timestamptz[], :max_attempts::int[], :timeout_s::float8[], :dedup_key::text[], :status::text[], :key::text[])
    AS t(id, type, params, description, domain, drift_score, priority, run_after, max_attempts, timeout_s, dedup_key, status, key)
-- All producers use one order: two that add the same keys in different orders would each wait for the other.
ORDER BY t.type COLLATE "C", t.dedup_key COLLATE "C" NULLS FIRST, t.id
ON CONFLICT DO NOTHING
RETURNING id
