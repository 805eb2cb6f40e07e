-- $1 lane, $2 run, $3 host, $4 pid, $5 lease in seconds
INSERT INTO lanes (id, run, host, pid, lease_until)
VALUES ($1, $2, $3, $4, queue_now() + make_interval(secs => $5))
