"""docs/how-to/wait-for-a-person.md does what it says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.queue.stores.producer import EVENT_LIMIT_BYTES
from organism_flows.blocks.snooze import EVENT_NAME_RULE
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.organism.config import load_config
from tests.support.gateway.running import running
from tests.support.local_organism import LocalOrganism
from tests.support.page import Page
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
PAGE = Page("how-to/wait-for-a-person.md")


async def test_the_example_continues_with_the_answer(
    queue: Queue, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PAGE.write(tmp_path, ("python", "refunds.py"), ("yaml", "organism.yaml"))
    monkeypatch.syspath_prepend(str(tmp_path))
    async with running(database, link_key="k" * 32) as gateway:
        monkeypatch.setenv("ORGANISM_GATEWAY_URL", gateway.url)
        monkeypatch.setenv("ORGANISM_TOKEN", "t" * 32)
        organism = LocalOrganism(load_config(tmp_path / "organism.yaml").model_dump(mode="json"))
        module: Any = import_module("refunds")
        mails: list[dict[str, str]] = []

        async def send_mail(to: str, subject: str, links: dict[str, str]) -> None:
            mails.append(links)

        monkeypatch.setattr(module, "send_mail", send_mail)
        task = NewTask(type="refund", params={"manager": "ada", "amount": 40})
        ids = await queue.submit([task, task])
        await Lane(queue, organism, until_empty=True).run()
        assert [(await queue.get(str(id))).status for id in ids] == ["waiting", "waiting"]
        async with httpx.AsyncClient(trust_env=False) as person:
            for links in mails:
                if str(ids[0]) in (await person.get(links["reject"])).text:
                    assert (await person.post(links["reject"])).status_code == 200
        await pool_of(queue).execute(PAGE.block("sql"))
        await Lane(queue, organism, until_empty=True).run()
        await module.client.aclose()
    rejected, approved = [await queue.get(str(id)) for id in ids]
    assert (rejected.result, rejected.attempts) == ({"refunded": 0}, 1)
    assert (approved.result, approved.attempts) == ({"refunded": 40, "asked": "ada"}, 1)
    assert len(mails) == 2


def test_the_limits_are_those_of_the_code() -> None:
    assert f"at most {EVENT_LIMIT_BYTES:,} bytes" in PAGE.text
    assert "1 to 100 letters, digits and `_ . : -`" in PAGE.text
    assert EVENT_NAME_RULE == "1 to 100 letters, digits and _ . : -"
