"""A queue with something of everything, and an organism that serves it, for the tests of the board."""

from __future__ import annotations

from typing import Any

import asyncpg

from organism_flows.blocks.organism_reports import OrganReport, StatusReport
from tests.support.scripted_organism import ScriptedOrganism

WAITING = """
WITH waiting AS (
    INSERT INTO tasks (type, domain, description, run_after, waits_for)
    VALUES ($1, 'shop', 'Refund 40 €?', now() + interval '1 day', 'approval') RETURNING id, run_after
)
INSERT INTO task_waits (task_id, claim, name, since, until, or_fail)
    SELECT id, 0, 'approval', now() - interval '2 hours', run_after, true FROM waiting;
"""
"""A task of the type $1 that waits for a person."""
FILL = f"""
{WAITING.replace("$1", "'refund'")}
INSERT INTO tasks (type, domain, status, created_at, run_after, finished_at, elapsed_ms, organ_id, params,
                   result, attempts)
    SELECT (ARRAY['caption', 'embed'])[1 + i % 2], 'photos', 'completed',
           now() - i * interval '1 s' - interval '2 s', now(), now() - i * interval '1 s', 100 + i,
           'captions', jsonb_build_object('image', i), '{{"text": "a dog"}}', 1
    FROM generate_series(1, 40) i;
INSERT INTO tasks (type, domain, run_after)
    SELECT 'caption', 'photos', now() - interval '1 s' FROM generate_series(1, 120);
INSERT INTO tasks (type, run_after) SELECT 'digest', now() + interval '1 hour' FROM generate_series(1, 3);
INSERT INTO tasks (type, domain, status, run_after, attempts, error)
    SELECT 'caption', 'photos', 'retry', now() + interval '1 hour', 2, 'TimeoutError'
    FROM generate_series(1, 2);
INSERT INTO tasks (type, domain, status, finished_at, attempts, error)
    SELECT 'caption', 'photos', 'failed', now() - i * interval '1 s', 5,
           E'ValueError: cannot decode /data/in/img-' || i || E'.jpg: 100% bad marker at byte ' || i * 37
           || E'\\n  File "/srv/captions.py", line 88'
    FROM generate_series(1, 12) i;
INSERT INTO tasks (type, domain, status, finished_at, attempts, error)
    SELECT 'embed', 'archive', 'failed', now() - interval '1 day', 5,
           'OSError: ' || gen_random_uuid() || ' is gone'
    FROM generate_series(1, 3) i;
INSERT INTO lanes (id, run, number, host, pid, lease_until, settled, figures)
    VALUES ('otter-0', '3f6c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e', 0, 'worker', 41, now() + interval '1 hour',
            100, '{{"windows": {{"caption": 24}}}}');
INSERT INTO task_audit (id, action, actor, tasks, details)
    VALUES (gen_random_uuid(), 'verify', 'ops@worker', 0, '{{"status": "ok", "line": "all 20 checks are ok",
            "run": "7d1c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e"}}');
INSERT INTO tasks (type, domain, status, locked_by, locked_at, claim, attempts)
    SELECT 'caption', 'photos', 'running', 'otter-0', now(), i, 1 FROM generate_series(1, 4) i;
INSERT INTO task_types (type, max_attempts, timeout_s) VALUES ('caption', 7, 30);
"""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>owned = 1</script>\u202e\u2066]]>{{7*7}}"


async def fill(dsn: str, script: str = FILL, *arguments: Any) -> None:
    """Run ``script`` on the database."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(script, *arguments)
    finally:
        await connection.close()


class ServingOrganism(ScriptedOrganism):
    """One with two organs."""

    async def status(self) -> StatusReport:
        organs = {
            name: {
                "kind": "actuator",
                "handler": handler,
                "version": "b5e1f0",
                "task_types": types,
                "in_flight": 2,
                "waiting": 5,
                "completed": 70,
                "failed": 1,
            }
            for name, types, handler in (
                ("captions", ["caption"], "models.captions:Captioner"),
                ("vectors", ["embed"], "models.vectors:embed"),
            )
        }
        return StatusReport(
            **dict(await self.health()) | {"replica": "r1"},
            organs={name: OrganReport.model_validate(organ) for name, organ in organs.items()},
            task_types=["caption", "embed"],
            config={"default_organ": None},
        )
