"""docs/how-to/roles.md: its statements and commands run in order on a server without the roles."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from pathlib import Path

import asyncpg
import pytest

from organism_flows.blocks.queue.db.roles import ROLES
from tests.support.page import DOCS
from tests.support.queue.bare_server import bare_server

pytestmark = pytest.mark.anyio
TEXT = (DOCS / "how-to/roles.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


async def execute(dsn: str, script: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for sql in script.strip().split(";\n"):
            await connection.execute(sql)
    finally:
        await connection.close()


async def shell(script: str, tmp_path: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-ec",
        script,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ORGANISM_HOME": str(tmp_path),
            "HOME": str(tmp_path),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def test_its_steps_run(tmp_path: Path) -> None:
    roles, logins, reassign = blocks("sql")
    migrate, use = blocks("sh")
    [error] = re.findall(r"^error: .*\n", TEXT, re.MULTILINE)

    with bare_server() as server:

        def here(script: str) -> str:
            # Over the socket: the server of the page is somewhere else.
            return re.sub(
                r"=postgresql://(\w+):\w+@db\.example/work",
                lambda url: f"='{server.dsn('work', url[1])}'",
                script,
            )

        async def scenario() -> None:
            admin = server.dsn(user="postgres")
            await execute(admin, roles)
            assert (await shell(here(migrate), tmp_path))[0] == 0
            await execute(admin, logins)
            code, out, err = await shell(here(use), tmp_path)
            assert code == 0, err
            assert "shout" in out
            tried = here("ORGANISM_DSN=postgresql://shop:secret@db.example/work organism tasks list")
            code, _, err = await shell(tried, tmp_path)
            assert (code, err) == (1, error)
            await execute(admin, "CREATE ROLE old_owner")
            await execute(server.dsn("work", "postgres"), reassign)

        asyncio.run(scenario())


def test_it_names_every_role() -> None:
    assert set(re.findall(r"^\| `(organism_\w+)`", TEXT, re.MULTILINE)) == set(ROLES)
