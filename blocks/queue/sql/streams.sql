-- The states of tasks, and the chunks of their newest claims after the places that readers have reached, each a claim and
-- a number. In parts, as they were written: the next ones, until they have so many bytes.
SELECT place.id, place.claim AS after_claim, place.number AS after_number,
       t.status::text, t.attempts, t.cancel_requested, t.locked_by AS lane, t.claim, saved.fraction, saved.note,
       part.number, part.run_begin, ARRAY(SELECT value::text FROM jsonb_array_elements(part.chunks)) AS chunks
FROM unnest(:ids::uuid[], :claims::bigint[], :numbers::bigint[]) AS place(id, claim, number)
JOIN tasks t ON t.id = place.id
LEFT JOIN task_checkpoints saved ON saved.task_id = t.id
LEFT JOIN LATERAL (
    SELECT following.*, sum(pg_column_size(chunks)) OVER (ORDER BY number) - pg_column_size(chunks) AS bytes_before
    FROM (
        SELECT number, run_begin, chunks FROM task_chunks c
        WHERE c.task_id = t.id AND c.claim = t.claim
          AND c.number > CASE WHEN place.claim = t.claim THEN place.number ELSE 0 END
        ORDER BY number
        LIMIT :parts
    ) following
) part ON part.bytes_before < :bytes
ORDER BY part.number
