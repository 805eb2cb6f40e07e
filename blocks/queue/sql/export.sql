-- A page of tasks with all columns, in descending order of their ids, as in page.sql. Sizes are those in storage: they
-- are known without reading the values. Moments are text, because Postgres holds some that Python does not.
SELECT id::text, type, {shown_status} AS status, description, domain, key, drift_score, priority, cost, attempts, max_attempts,
       dedup_key, timeout_s, to_json(run_after) #>> '{}' AS run_after,
       to_json(expires_at) #>> '{}' AS expires_at, params::text, result::text, error,
       organ_id, path, elapsed_ms, timed_out, lease_lost, interrupted, snoozed, to_json(created_at) #>> '{}' AS created_at,
       to_json(updated_at) #>> '{}' AS updated_at, to_json(finished_at) #>> '{}' AS finished_at
FROM (
    SELECT *, sum(
        coalesce(pg_column_size(params), 0) + coalesce(pg_column_size(result), 0)
        + coalesce(pg_column_size(error), 0) + coalesce(pg_column_size(description), 0)
    ) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM (
        SELECT *
        FROM tasks
        WHERE {task_filter}
          AND (:before::uuid IS NULL OR id < :before)
        ORDER BY id DESC
        LIMIT :limit
    ) fitting
) sized
WHERE coalesce(bytes_before, 0) < :page_bytes
ORDER BY sized.id DESC
