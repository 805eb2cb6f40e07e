"""The pages on the order of tasks and on warm models: their commands run, and their code is a handler."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from organism_flows.blocks.queue import Queue, TaskFilter, TypePolicy
from organism_flows.deployments.cli import main as cli
from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.handler_api.loading import load_handler
from tests.conftest import Databases
from tests.support.page import Page


async def policies_and_keys(dsn: str) -> tuple[dict[str, TypePolicy], list[str | None]]:
    async with Queue(dsn) as queue:
        policies = {policy.type: policy for policy in await queue.operator.policies()}
        rows = [row async for page in queue.reader.export(TaskFilter()) for row in page]
        return policies, [row["key"] for row in rows if row["type"] == "answer"]


def test_each_command_runs_and_sets_what_the_page_says(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = asyncio.run(databases.create())
    monkeypatch.setenv("ORGANISM_DSN", dsn)
    for page in (Page("how-to/order-tasks.md"), Page("how-to/keep-models-warm.md")):
        for command in re.findall(r"^organism .*", page.text, re.MULTILINE):
            if "<id>" not in command:
                assert cli.run(shlex.split(command)[1:]) == 0, command
    assert "quote: earliest_deadline, timeout_by_deadline" in capsys.readouterr().out
    policies, keys = asyncio.run(policies_and_keys(dsn))
    assert policies == {
        "report": TypePolicy(type="report", aging_s=60),
        "quote": TypePolicy(type="quote", earliest_deadline=True, timeout_by_deadline=True),
        "answer": TypePolicy(type="answer", affinity_s=40, affinity_keys=4, key_path="params.model"),
    }
    assert keys == ["small-fr"]


def test_the_handler_and_the_organ_of_the_page_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("how-to/keep-models-warm.md")
    config = parse_config({**YAML(typ="safe").load(page.block("yaml")), "include_builtin": True})
    [organ] = [organ for organ in config.organs if organ.id == "answers"]
    assert organ.deployment is not None
    assert organ.deployment.replicas == 2
    assert [policy.affinity_keys for policy in config.policies or ()] == [4]
    order = Page("how-to/order-tasks.md").block("yaml")
    declared = parse_config({**YAML(typ="safe").load(order), "include_builtin": True})
    assert [policy.type for policy in declared.policies or ()] == ["report", "quote"]
    page.write(tmp_path, ("python", "my_models.py"))
    monkeypatch.syspath_prepend(tmp_path)
    handler = load_handler(organ)
    assert handler.is_async
    assert handler.wants_context
