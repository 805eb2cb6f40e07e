"""The tables of the older system."""

from __future__ import annotations

OLDER_SCHEMA = """
CREATE TYPE taskstatus AS ENUM ('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'retry');
CREATE TABLE tasks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    status taskstatus NOT NULL DEFAULT 'created',
    attempts integer NOT NULL DEFAULT 0,
    locked_by text, locked_at timestamptz, run_after timestamptz,
    type text NOT NULL, description text, domain text,
    drift_score double precision NOT NULL DEFAULT 0.0,
    params jsonb NOT NULL DEFAULT '{}', result jsonb, error text,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    owner_id text, lease_expires_at timestamptz
);
CREATE FUNCTION update_tasks_updated_at() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
CREATE TRIGGER trigger_tasks_updated_at BEFORE UPDATE ON tasks
    FOR EACH ROW EXECUTE FUNCTION update_tasks_updated_at();
INSERT INTO tasks (type, status, attempts, locked_by, params, result, error, drift_score, run_after) VALUES
    ('a', 'queued', 0, NULL, '{"n": 1}', NULL, NULL, 0.1, NULL),
    ('b', 'running', 7, 'seedcore_dispatcher_0', '{}', NULL, NULL, 0, NULL),
    ('c', 'completed', 1, NULL, '{}', '{"ok": true}', NULL, 0, now()),
    ('d', 'failed', 3, NULL, '[]', NULL, 'boom', 'NaN', NULL),
    ('e', 'created', 0, NULL, '{}', NULL, NULL, 0, NULL);
"""
