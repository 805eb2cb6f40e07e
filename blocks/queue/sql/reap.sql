-- Takes the tasks of lanes whose lease has ended back into the queue, without charging the attempt. A task that has
-- lost as many leases as it may becomes a dead letter. Strays are tasks whose holder is not a lane.
WITH RECURSIVE lost AS MATERIALIZED (
    -- A lane that is claiming holds this row. Skipping it leaves it to the next reap.
    SELECT id FROM lanes WHERE lease_until < queue_now() ORDER BY id FOR UPDATE SKIP LOCKED
), holder AS (
    -- Jumps from holder to holder in the index. Only SQL of the user makes a holder that is not a lane.
    (SELECT locked_by AS id FROM tasks WHERE :strays AND locked_by IS NOT NULL ORDER BY locked_by LIMIT 1)
    UNION ALL
    SELECT following.id FROM holder CROSS JOIN LATERAL (
        SELECT locked_by AS id FROM tasks WHERE locked_by > holder.id ORDER BY locked_by LIMIT 1
    ) following
), dead AS MATERIALIZED (
    SELECT id FROM lost
    UNION
    SELECT id FROM holder WHERE NOT EXISTS (SELECT FROM lanes WHERE lanes.id = holder.id)
), orphans AS MATERIALIZED (
    -- A task that is being settled is locked: its settlement goes first, and wins. A row that has changed since our
    -- snapshot is checked again by its own columns, and a lane never takes the name of another.
    -- LATERAL, because the planner may turn a join into a scan of the table.
    SELECT held.*
    FROM dead CROSS JOIN LATERAL (
        SELECT id, locked_by AS lane, locked_at AS started_at
        FROM tasks WHERE locked_by = dead.id AND status = 'running'
        FOR UPDATE SKIP LOCKED
    ) held
), {reaped_tasks}, ended AS (
    -- The row stays until no task is held under its name: a claim may have been committed since our snapshot.
    UPDATE lanes SET lease_until = 'epoch' WHERE id IN (SELECT id FROM lost) AND lease_until > 'epoch'
    RETURNING id
), gone AS (
    DELETE FROM lanes l WHERE l.id IN (SELECT id FROM lost) AND l.lease_until = 'epoch'
        AND NOT EXISTS (SELECT FROM tasks t WHERE t.locked_by = l.id)
), counted AS (
    -- A reap that finds nothing, as nearly all do, writes no row. Lanes do not report counters of these names:
    -- otherwise lanes that leave at the same time could lock the rows in another order.
    INSERT INTO lane_totals AS total (name, value)
    SELECT loss.name, loss.number
    FROM (VALUES ('lanes_lost', (SELECT count(*) FROM ended)),
                 ('leases_lost', (SELECT count(*) FROM reaped)),
                 ('reaped.cancelled', (SELECT count(*) FROM reaped WHERE status = 'cancelled')),
                 ('reaped.failed', (SELECT count(*) FROM reaped WHERE status = 'failed')))
        AS loss(name, number)
    WHERE loss.number > 0 ORDER BY loss.name
    ON CONFLICT (name) DO UPDATE SET value = least(total.value, 1e300) + excluded.value
)
{reap_result}
