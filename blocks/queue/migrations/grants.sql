-- All that the group roles may do, and no more: run at the end of every `migrate`, in one transaction. A statement
-- in sql/ that needs more fails in tests/integration/blocks/queue/test_roles.py. Deletes of tasks take their attempts along as
-- the tables' owner.

-- step: what an earlier version granted and this one does not
REVOKE ALL ON tasks, lanes, lane_totals, task_attempts, task_types, pauses, task_audit, task_files, limits, limit_exceptions,
    key_weights, limit_levels, limit_spending, closures, task_checkpoints, task_chunks, task_waits, task_events,
    organism_migrations
    FROM organism_submitter, organism_lane, organism_operator

-- step: of the claim tokens likewise
REVOKE ALL ON SEQUENCE task_claims FROM organism_submitter, organism_lane, organism_operator

-- step: the schema. Only a warning where whoever migrates may use it without owning it
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO organism_submitter, organism_lane, organism_operator',
                   (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'tasks'::regclass));
END $$

-- step: for everybody by default, but a server may be set up otherwise
GRANT USAGE ON TYPE taskstatus TO organism_submitter, organism_lane, organism_operator

-- step: likewise; they run with the rights of their caller
GRANT EXECUTE ON FUNCTION queue_now(), new_task_id() TO organism_submitter, organism_lane, organism_operator

-- step: likewise
GRANT EXECUTE ON FUNCTION read_task(uuid, uuid, int) TO organism_operator

-- step: a task as whoever adds it may write it; its status by the rule tasks_begin_waiting
GRANT INSERT (id, type, params, description, domain, drift_score, priority, run_after, max_attempts, timeout_s,
              dedup_key, status, key, expires_at, cost, traceparent)
    ON tasks TO organism_submitter, organism_operator

-- step: whoever opens the queue asks for its version
GRANT SELECT ON organism_migrations TO organism_submitter

-- step: what ON CONFLICT, RETURNING and the search for duplicates read
GRANT SELECT (id, type, status, dedup_key) ON tasks TO organism_submitter

-- step: files are loaded once
GRANT SELECT, INSERT, UPDATE ON task_files TO organism_submitter, organism_operator

-- step: claims, settlements and reaps; nothing of what was asked for
GRANT SELECT, DELETE,
      UPDATE (status, claim, attempts, locked_by, locked_at, begun_at, run_after, result, error, timed_out, lease_lost,
              interrupted, suspicion, cancel_requested, elapsed_ms, organ_id, path, log, finished_at, updated_at, snoozed,
              waits_for, handler_version)
    ON tasks TO organism_lane

-- step: to find out whether tasks can be added again
GRANT INSERT (type, status) ON tasks TO organism_lane

-- step: claim tokens; a redrive takes some too
GRANT USAGE ON SEQUENCE task_claims TO organism_lane, organism_operator

-- step: leases and figures
GRANT SELECT, INSERT, UPDATE, DELETE ON lanes TO organism_lane

-- step: the figures of lanes that are gone
GRANT SELECT, INSERT, UPDATE ON lane_totals TO organism_lane

-- step: history is added to and read by others
GRANT INSERT ON task_attempts TO organism_lane, organism_operator

-- step: policies, pauses and limits, as others set them
GRANT SELECT ON task_types, pauses, limits, limit_exceptions, key_weights, organism_migrations TO organism_lane

-- step: a claim locks the limits of its tasks, and FOR UPDATE needs a column to update
GRANT UPDATE (set_at) ON limits TO organism_lane

-- step: how much of a rate is left
GRANT SELECT, INSERT, UPDATE, DELETE ON limit_levels, limit_spending TO organism_lane

-- step: handlers close keys and limits
GRANT SELECT, INSERT, UPDATE, DELETE ON closures TO organism_lane

-- step: what handlers report while they run
GRANT SELECT, INSERT, UPDATE ON task_checkpoints TO organism_lane

-- step: what they emit; the chunks of a task's earlier attempts are deleted
GRANT SELECT, INSERT, DELETE ON task_chunks TO organism_lane

-- step: what tasks wait for, and events that came before
GRANT SELECT, INSERT, UPDATE ON task_waits TO organism_lane

-- step: whose arrival is not theirs to write
GRANT SELECT, UPDATE (delivered_at) ON task_events TO organism_lane

-- step: whoever adds tasks may send events; the trigger has the rights of the owner
GRANT INSERT (task_id, name, payload), SELECT (delivered_at) ON task_events TO organism_submitter, organism_operator

-- step: the watchdog deletes old notes
GRANT DELETE, SELECT (id, at) ON task_audit TO organism_lane

-- step: and forgets files; FOR UPDATE needs a column to update
GRANT DELETE, SELECT (name, loaded_at), UPDATE (loaded_at) ON task_files TO organism_lane

-- step: operators read everything
GRANT SELECT ON tasks, lanes, lane_totals, task_attempts, task_types, pauses, task_audit, task_files, organism_migrations
    TO organism_operator

-- step: read it, and have tasks begin from the start
GRANT SELECT, DELETE ON task_checkpoints, task_waits, task_events TO organism_operator

-- step: read what handlers emit
GRANT SELECT ON task_chunks TO organism_operator

-- step: cancel, start, retry, redrive, prune
GRANT DELETE,
      UPDATE (status, attempts, locked_by, locked_at, run_after, result, error, timed_out, lease_lost, interrupted,
              suspicion, cancel_requested, elapsed_ms, organ_id, path, finished_at, updated_at, snoozed, expires_at, waits_for)
    ON tasks TO organism_operator

-- step: ask lanes to stop or to leave
GRANT UPDATE (stop_requested, leave_requested) ON lanes TO organism_operator

-- step: policies
GRANT INSERT, UPDATE ON task_types TO organism_operator

-- step: limits; the level of a rate is that of its tasks
GRANT SELECT, INSERT, UPDATE, DELETE ON limits, limit_exceptions, limit_levels, limit_spending, key_weights TO organism_operator

-- step: operators open what is closed
GRANT SELECT, INSERT, UPDATE, DELETE ON closures TO organism_operator

-- step: pauses
GRANT INSERT, UPDATE, DELETE ON pauses TO organism_operator

-- step: who redrove what
GRANT INSERT, UPDATE, DELETE ON task_audit TO organism_operator

-- step: files to be loaded once more
GRANT DELETE ON task_files TO organism_operator
