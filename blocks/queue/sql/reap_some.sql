-- As reap.sql, for these tasks only. Used when Postgres refuses to write another one.
WITH lost AS MATERIALIZED (
    SELECT id FROM lanes WHERE lease_until < queue_now() ORDER BY id FOR UPDATE SKIP LOCKED
), orphans AS MATERIALIZED (
    SELECT id, locked_by AS lane, locked_at AS started_at FROM tasks
    WHERE id = ANY (:ids::uuid[]) AND status = 'running'
      AND (locked_by IN (SELECT lost.id FROM lost) OR NOT EXISTS (SELECT FROM lanes WHERE lanes.id = locked_by))
    FOR UPDATE SKIP LOCKED
), {reaped_tasks}, ended AS (
    UPDATE lanes SET lease_until = 'epoch' WHERE id IN (SELECT lane FROM orphans) AND lease_until > 'epoch'
    RETURNING id
)
{reap_result}
