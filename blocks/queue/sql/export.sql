-- A page of tasks with all columns, in descending order of their ids, as in page.sql. Sizes are those in storage: they
-- are known without reading the values. Moments are text, because Postgres holds some that Python does not.
-- $1 statuses, empty for any. Each of these, or NULL for any: $2 type, $3 domain, $4 created since, $5 created before,
-- $6 text in the error, $7 dedup key, $8 organ, $9 lane, $10 key. $11 id of the last task of the previous page,
-- $12 most rows, $13 bytes after which a page ends.
SELECT id::text, type, status::text, description, domain, key, drift_score, priority, attempts, max_attempts,
       dedup_key, timeout_s, to_json(run_after) #>> '{}' AS run_after, params::text, result::text, error,
       organ_id, path, elapsed_ms, timed_out, lease_lost, interrupted, to_json(created_at) #>> '{}' AS created_at,
       to_json(updated_at) #>> '{}' AS updated_at, to_json(finished_at) #>> '{}' AS finished_at
FROM (
    SELECT *, sum(
        coalesce(pg_column_size(params), 0) + coalesce(pg_column_size(result), 0)
        + coalesce(pg_column_size(error), 0) + coalesce(pg_column_size(description), 0)
    ) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM (
        SELECT *
        FROM tasks
        WHERE (cardinality($1::taskstatus[]) = 0 OR status = ANY ($1::taskstatus[]))
          AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR domain = $3)
          AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at < $5)
          AND ($6::text IS NULL OR position(lower($6) IN lower(left(error, 1000000))) > 0)
          AND ($7::text IS NULL OR dedup_key = $7) AND ($8::text IS NULL OR organ_id = $8)
          AND ($9::text IS NULL OR locked_by = $9) AND ($10::text IS NULL OR key = $10)
          AND ($11::uuid IS NULL OR id < $11)
        ORDER BY id DESC
        LIMIT $12
    ) fitting
) sized
WHERE coalesce(bytes_before, 0) < $13
ORDER BY sized.id DESC
