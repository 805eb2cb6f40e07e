-- The newest row of the audit of each of these actions, among the newest rows.
SELECT DISTINCT ON (action, details ->> 'kind', details ->> 'name') action, at, actor, left(details::text, 10000) AS details
FROM (SELECT * FROM task_audit ORDER BY id DESC LIMIT :limit) newest
WHERE action = ANY (:actions::text[])
ORDER BY action, details ->> 'kind', details ->> 'name', id DESC
LIMIT 500
