SELECT status::text, count(*) AS tasks FROM tasks GROUP BY status
