SELECT id, run, number, host, pid, started_at, renewed_at, lease_until, settled, stop_requested,
       leave_requested, leaving_at, relay, run_started_at,
       lease_until > queue_now() AS live, figures -> 'windows' AS windows
FROM lanes ORDER BY started_at
