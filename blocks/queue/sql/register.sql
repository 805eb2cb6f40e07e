-- Opens the lease of a lane. A run without a start began now.
INSERT INTO lanes (id, run, number, host, pid, lease_until, relay, run_started_at)
VALUES (:lane, :run, :number, :host, :pid, queue_now() + make_interval(secs => :lease_s), :relay,
        coalesce(:run_started_at::timestamptz, queue_now()))
