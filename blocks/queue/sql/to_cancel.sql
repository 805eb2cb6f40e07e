-- Ids of unfinished tasks that match and have not been asked to stop. Arguments as in page.sql.
SELECT id
FROM tasks
WHERE (cardinality($1::taskstatus[]) = 0 OR status = ANY ($1::taskstatus[]))
  AND ($2::text IS NULL OR type = $2) AND ($3::text IS NULL OR domain = $3)
  AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at < $5)
  AND ($6::text IS NULL OR position(lower($6) IN lower(left(error, 1000000))) > 0)
  AND ($7::text IS NULL OR dedup_key = $7) AND ($8::text IS NULL OR organ_id = $8)
  AND ($9::text IS NULL OR locked_by = $9) AND ($10::text IS NULL OR key = $10)
  AND ($11::uuid IS NULL OR id < $11)
  AND status IN ('created', 'queued', 'running', 'retry') AND NOT cancel_requested
ORDER BY id DESC
LIMIT $12
