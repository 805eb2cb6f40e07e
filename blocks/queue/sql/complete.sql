-- Settles completed tasks. They are separate because nearly every task completes; settle.sql has the others.
UPDATE tasks t
SET status = 'completed', result = r.result::jsonb, error = NULL, suspicion = 0, finished_at = queue_now(),
    elapsed_ms = r.elapsed_ms, organ_id = r.organ_id, path = r.path, log = r.log,
    locked_by = NULL, locked_at = NULL, cancel_requested = false, updated_at = queue_now()
-- Subqueries hide the number of rows: a planner that knew it would scan a table of some ten thousand rows, in 11 ms
-- instead of 1 ms.
FROM unnest((SELECT :ids::uuid[]), (SELECT :claims::bigint[]), (SELECT :results::text[]), (SELECT :paths::text[]),
            (SELECT :organ_ids::text[]), (SELECT :elapsed_ms::real[]), (SELECT :logs::text[]))
    AS r(id, claim, result, path, organ_id, elapsed_ms, log)
-- The fence: a holder whose claim is not the newest changes nothing.
WHERE t.id = r.id AND t.claim = r.claim AND t.status = 'running'
RETURNING t.id::text
