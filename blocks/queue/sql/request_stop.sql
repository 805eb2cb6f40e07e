-- $1 run: asks every lane of a dispatch run to stop claiming, finish what is in flight and leave
WITH asked AS (
    UPDATE lanes SET stop_requested = true WHERE run = $1 RETURNING id
)
SELECT count(*) AS lanes, pg_notify('organism_tasks', 'stop') FROM asked
