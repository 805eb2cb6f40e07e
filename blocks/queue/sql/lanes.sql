SELECT id, run, number, host, pid, started_at, renewed_at, lease_until, settled, stop_requested,
       lease_until > queue_now() AS live
FROM lanes ORDER BY started_at
