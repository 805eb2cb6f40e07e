"""The benchmarks' own arithmetic and bookkeeping; what they measure is not a test's business."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import costs, per_task, record
from benchmarks.__main__ import PARTS
from benchmarks.figures import Figure, Result, Unmeasured, median, percentile
from benchmarks.parts import consumer, drain, fairness
from benchmarks.peers import bare_api
from organism_flows.blocks.queue import NewTask
from organism_flows.blocks.queue.stores.task_rows import COLUMNS, task_row
from organism_flows.serve_apps.organism.config import load_config

ROOT = Path(record.__file__).parent.parent


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (1, 20, 21, 50, 99, 100)] == [1, 1, 2, 3, 5, 5]
    assert median(values) == 3
    assert median(values[:4]) == 3
    with pytest.raises(Unmeasured):
        percentile([], 50)


@pytest.mark.parametrize(
    ("figure", "target", "met"),
    [
        (Figure("f", 1.6, at_least=1.6), "≥ 1.6 x", True),
        (Figure("f", 1.59, at_least=1.6), "≥ 1.6 x", False),
        (Figure("f", 20.0, "%", at_most=20), "≤ 20 %", True),
        (Figure("f", 20.1, "%", at_most=20), "≤ 20 %", False),
        (Figure("f", 5.0, "rows"), "", None),
    ],
)
def test_a_target_is_met_or_not(figure: Figure, target: str, met: bool | None) -> None:
    assert (figure.target, figure.met) == (target, met)


def test_a_part_is_recorded_in_place_of_its_last_run(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    other = Figure("another", 2.0, note="from this")
    record.add(results, "trickle", Result([other]), seconds=1, busy=3, load_average=(1, 2))
    for value in (1.0, 4.0):
        samples = {"s": [0.123456789, 1, 2]}
        measured = Result([Figure("one", value)], samples)
        record.add(results, "drain", measured, seconds=1, busy=3, load_average=(1, 2))
    assert [f.value for f in record.figures(results, PARTS)] == [4.0, 2.0]
    assert "[ 0.12346, 1, 2 ]" in results.read_text(), "samples take one line"
    assert record.load(results)["parts"]["drain"]["busy_percent_before"] == 3


def test_the_page_has_a_place_for_every_part() -> None:
    page = record.PAGE.read_text()
    for name in (*PARTS, "machine", "missed", "ahead"):
        assert f"<!-- {name} -->" in page
        assert f"<!-- /{name} -->" in page


def test_the_organism_of_the_benchmarks_is_a_valid_one() -> None:
    config = load_config(ROOT / "benchmarks" / "organism.yaml")
    assert "bench.noop" in config.task_types


def test_the_lock_of_the_peers_pins_every_hash_and_names_no_index() -> None:
    text = (ROOT / "benchmarks" / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    packages = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line for line in packages)
    assert text.count("--hash=sha256:") >= len(packages)


def test_the_peers_on_ray_use_the_version_of_this_project() -> None:
    pinned = [
        re.findall(r"^ray==(\S+)", (ROOT / path).read_text(), re.MULTILINE)
        for path in ("requirements.lock", "benchmarks/requirements.lock")
    ]
    assert pinned[0] == pinned[1] != []


def test_the_lock_of_the_peers_on_node_pins_every_hash_and_names_no_registry() -> None:
    text = (ROOT / "benchmarks" / "node" / "package-lock.json").read_text()
    packages = {path: each for path, each in json.loads(text)["packages"].items() if path}
    assert "resolved" not in text
    assert packages
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())


def test_the_bare_endpoint_adds_what_the_gateway_adds() -> None:
    theirs = bare_api.row_of(bare_api.NewTask(type="a", params={"n": 1}, key="k"))
    ours = task_row(NewTask(type="a", params={"n": 1}, key="k"))
    assert dict(zip(COLUMNS[1:], theirs[1:], strict=True)) == dict(zip(COLUMNS[1:], ours[1:], strict=True))


def test_peers_that_are_faster_or_cheaper_are_named() -> None:
    samples: dict[str, Any] = {
        "rates": {"ours": [100, 120, 110], "graphile": [130, 140, 120], "pgqueuer": [60], "dbos": [5]},
        "costs": {
            "ours": {"processor_us": {"Postgres": 20.0, "lane": 20.0}},
            "graphile": {"processor_us": {"Postgres": 30.0, "worker": 20.0}},
            "pgqueuer": {"processor_us": {"Postgres": 10.0, "worker": 10.0}},
            "dbos": {"processor_us": {"Postgres": 900.0}},
        },
    }
    table = record.ahead(samples)
    assert [line.split("|")[1:4] for line in table.replace(" ", "").splitlines()[2:]] == [
        ["graphile-worker,batched", "1.18x", "1.25x"],
        ["PgQueuer", "0.55x", "0.50x"],
    ]
    del samples["rates"]["graphile"], samples["rates"]["pgqueuer"]
    assert record.ahead(samples) == "No system is ahead of ours."


def test_every_system_that_drains_has_a_name_and_a_contract() -> None:
    measured = {"ours", "per_call", *drain.FAST, *drain.SLOW}
    assert measured == set(record.SYSTEMS)
    assert {len(each) for each in record.SYSTEMS.values()} == {1 + len(record.CONTRACT)}
    assert {name for name, _, _ in drain.RATIOS} == measured - {"ours"}
    for program, *_ in (*drain.FAST.values(), *drain.SLOW.values()):
        node = ROOT / "benchmarks" / "node" / f"{program}.mjs"
        assert node.exists() != (ROOT / "benchmarks" / "peers" / f"{program}.py").exists()


def test_systems_with_limits_by_key_have_a_name_a_contract_and_ratios() -> None:
    assert {"ours", *fairness.PEERS} == set(record.KEYED)
    each = {"alone_ms": [10.0], "beside_ms": [12.0], "free": [100.0], "wide": [95.0], "limited": [50.0]}
    used = {
        "free_us": [{"Postgres": 8.0, "lane": 1, "replica": 1}],
        "wide_us": [{"Postgres": 9.0, "lane": 1, "replica": 1}],
        "limited_us": [{"Postgres": 9.0, "lane": 1, "replica": 1}],
    }
    figures = [f for name in record.KEYED for f in fairness.figures_of(name, each | used)]
    assert [(figure.value, figure.met) for figure in figures if figure.target] == [(1.2, True), (0.95, True)]
    table = record.fairness({"systems": dict.fromkeys(record.KEYED, each)})
    assert table.count("| 12, 12") == len(record.KEYED)


def test_the_time_of_a_process_that_ended_is_counted_until_its_last_reading() -> None:
    program = "sum(range(10**7)); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    group = costs.Group([psutil.Process(child.pid)])
    group.first[child.pid] = 0.0
    assert child.stdout
    child.stdout.readline()
    group.read()
    used = group.seconds
    child.communicate(b"\n")
    group.read()
    assert used > 0.05
    assert group.seconds == used


def test_a_kill_is_judged_by_what_was_sent_and_what_ran() -> None:
    sent = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0}
    starts = [(0, 1.1), (1, 2.1), (3, 6.0), (1, 7.0), (4, 7.5)]
    assert consumer.outcome(sent, 2.5, starts, refused=1) == {
        "sent": 5,
        "refused": 1,
        "lost": 1,
        "twice": 1,
        "silence_s": 3.5,
        "straggler_s": 4.5,
    }


def test_the_cost_of_a_task_is_measured_for_each_form_of_handler() -> None:
    found = asyncio.run(per_task.measure(1, ""))
    assert {"replica, async", "replica, def-batch", "lane"} <= found.keys()
    assert all(len(each) == 1 and each[0] > 0 for each in found.values())
