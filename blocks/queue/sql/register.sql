-- $1 lane, $2 run, $3 number in its run, $4 host, $5 pid, $6 lease in seconds
INSERT INTO lanes (id, run, number, host, pid, lease_until)
VALUES ($1, $2, $3, $4, $5, queue_now() + make_interval(secs => $6))
