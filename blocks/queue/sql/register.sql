-- $1 lane, $2 run, $3 number in its run, $4 host, $5 pid, $6 lease in seconds, $7 true if the run is a relay, $8 when
-- the run began, or NULL for now.
INSERT INTO lanes (id, run, number, host, pid, lease_until, relay, run_started_at)
VALUES ($1, $2, $3, $4, $5, queue_now() + make_interval(secs => $6), $7, coalesce($8::timestamptz, queue_now()))
