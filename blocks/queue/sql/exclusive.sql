-- $1 key of the lock, which is held until the session ends.
SELECT pg_try_advisory_lock($1)
