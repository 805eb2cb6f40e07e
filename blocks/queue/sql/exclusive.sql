-- The lock is held until the session ends.
SELECT pg_try_advisory_lock(:key)
