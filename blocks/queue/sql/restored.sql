-- What earlier attempts of these tasks have left, where they have left something: their newest checkpoints, and how their
-- newest waits have ended.
SELECT t.id::text AS id, saved.step, saved.state::text AS state, wait.name AS event, event.payload::text AS payload,
       event.task_id IS NULL AS timed_out, wait.or_fail
FROM unnest(:ids::uuid[]) AS t(id)
LEFT JOIN task_checkpoints saved ON saved.task_id = t.id AND saved.state IS NOT NULL
LEFT JOIN (
    task_waits wait LEFT JOIN task_events event
    ON event.task_id = wait.task_id AND event.name = wait.name AND event.delivered_at IS NOT NULL
) ON wait.task_id = t.id AND (event.task_id IS NOT NULL OR wait.until <= queue_now())
WHERE saved.task_id IS NOT NULL OR wait.task_id IS NOT NULL
