-- $1 run: asks every lane of a dispatch run to claim nothing more and leave when what it holds has ended
WITH asked AS (
    UPDATE lanes SET leave_requested = true WHERE run = $1 RETURNING id
)
SELECT count(*) AS lanes, pg_notify('organism_tasks', 'stop') FROM asked
