-- $1 lowest uuid, $2 highest uuid of an id prefix, $3 attempts where neither task nor type says
SELECT t.*, coalesce(t.max_attempts, policy.max_attempts, $3) AS attempts_allowed,
       (SELECT json_agg(made ORDER BY made.claim)::text
        FROM (SELECT claim, attempt, lane, cause, error, started_at, ended_at
              FROM task_attempts WHERE task_id = t.id) made) AS attempts_made
FROM tasks t LEFT JOIN task_types policy USING (type)
WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 6
