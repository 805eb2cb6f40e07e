-- Counts the tasks of the same line before a task, up to 1000, where those that expire first come first.
SELECT least(1000, (
    SELECT count(*) FROM (
        SELECT FROM tasks
        WHERE expires_at IS NOT NULL AND status IN ('queued', 'retry') AND type = :type AND priority = :priority
          AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key
          AND (expires_at, id) < (coalesce(:expires_at::timestamptz, 'infinity'), coalesce(:id::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
        ORDER BY expires_at, id LIMIT 1000
    ) expiring
) + CASE WHEN :expires_at::timestamptz IS NULL THEN (
    SELECT count(*) FROM (
        SELECT FROM tasks
        WHERE status IN ('queued', 'retry') AND type = :type AND priority = :priority
          AND coalesce(domain, '') = :domain AND coalesce(key, '') = :key AND (run_after, id) < (:run_after, :id)
          AND expires_at IS NULL
        ORDER BY run_after, id LIMIT 1000
    ) others
) ELSE 0 END)
