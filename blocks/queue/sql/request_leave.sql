-- Asks every lane of a dispatch run to claim no more, and to end when the tasks that it holds have ended.
WITH asked AS (
    UPDATE lanes SET leave_requested = true WHERE run = :run RETURNING id
)
SELECT count(*) AS lanes, pg_notify('organism_tasks', 'stop') FROM asked
