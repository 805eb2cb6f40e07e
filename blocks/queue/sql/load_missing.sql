-- Adds the tasks that do not exist yet. As submit.sql, but also skips ids that exist.
-- $1 uuid[] ids, $2 text[] types, $3 text[] params, $4 text[] descriptions, $5 text[] domains, $6 float8[] drift
-- scores, $7 int[] priorities, $8 timestamptz[] run_after, $9 int[] max_attempts, $10 float8[] timeouts, $11 text[]
-- dedup keys, $12 text[] statuses, $13 text[] keys.
INSERT INTO tasks
    (id, type, params, description, domain, drift_score, priority, run_after, max_attempts, timeout_s, dedup_key, status, key)
SELECT t.id, t.type, t.params::jsonb, t.description, t.domain, t.drift_score, t.priority, t.run_after,
       t.max_attempts, t.timeout_s, t.dedup_key, t.status::taskstatus, t.key
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::float8[], $7::int[], $8::timestamptz[], $9::int[], $10::float8[], $11::text[], $12::text[], $13::text[])
    AS t(id, type, params, description, domain, drift_score, priority, run_after, max_attempts, timeout_s, dedup_key, status, key)
-- All producers use one order: two that add the same keys in different orders would each wait for the other.
ORDER BY t.type COLLATE "C", t.dedup_key COLLATE "C" NULLS FIRST, t.id
ON CONFLICT DO NOTHING
RETURNING id
