-- The version and state of the database, and what slows a queue down in it.
SELECT split_part(version(), ' ', 1) || ' ' || current_setting('server_version') AS version,
       current_database() AS database,
       clock_timestamp() AS now,
       current_setting('max_connections')::int AS max_connections,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS connections,
       -- The details of another user's session are visible only to roles with the privilege. Its age is always visible.
       extract(epoch FROM clock_timestamp() - oldest.xact_start)::float8 AS oldest_xact_s,
       format('pid %s, %s, %s', oldest.pid, coalesce(nullif(oldest.application_name, ''), 'no name'), oldest.state)
           AS oldest_xact,
       stats.n_dead_tup AS dead, stats.n_live_tup AS live,
       greatest(stats.last_vacuum, stats.last_autovacuum) AS vacuumed
FROM (SELECT) nothing
LEFT JOIN LATERAL (
    SELECT pid, application_name, state, xact_start FROM pg_stat_activity
    WHERE xact_start IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()
        -- A vacuum of Postgres itself keeps no other from removing what is dead, and gives way.
        AND backend_type IS DISTINCT FROM 'autovacuum worker'
    ORDER BY xact_start LIMIT 1
) oldest ON true
LEFT JOIN pg_stat_user_tables stats ON stats.relid = 'tasks'::regclass
