-- $1 statuses, empty for any. Each of these, or NULL for any: $2 type, $3 domain, $4 created since, $5 created before,
-- $6 text in the error, $7 dedup key, $8 organ, $9 lane, $10 key.
SELECT status::text, count(*) AS tasks
FROM tasks
WHERE (cardinality($1::taskstatus[]) = 0 OR status = ANY ($1::taskstatus[]))
  AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR domain = $3)
  AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at < $5)
  AND ($6::text IS NULL OR position(lower($6) IN lower(left(error, 1000000))) > 0)
  AND ($7::text IS NULL OR dedup_key = $7) AND ($8::text IS NULL OR organ_id = $8)
  AND ($9::text IS NULL OR locked_by = $9) AND ($10::text IS NULL OR key = $10)
GROUP BY status
