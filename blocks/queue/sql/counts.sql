SELECT {shown_status} AS status, count(*) AS tasks FROM tasks GROUP BY 1
