-- Asks every lane of a dispatch run to claim no more, finish its calls and end.
WITH asked AS (
    UPDATE lanes SET stop_requested = true WHERE run = :run RETURNING id
)
SELECT count(*) AS lanes, pg_notify('organism_tasks', 'stop') FROM asked
