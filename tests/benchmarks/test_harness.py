"""The benchmarks' own arithmetic and bookkeeping; what they measure is not a test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.__main__ import PARTS
from benchmarks.figures import Figure, Result, Unmeasured, median, percentile
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
    record.add(results, "trickle", Result([other]), seconds=1, busy=3)
    for value in (1.0, 4.0):
        samples = {"s": [0.123456789, 1, 2]}
        record.add(results, "drain", Result([Figure("one", value)], samples), seconds=1, busy=3)
    assert [f.value for f in record.figures(results, PARTS)] == [4.0, 2.0]
    assert "[ 0.12346, 1, 2 ]" in results.read_text(), "samples take one line"
    assert record.load(results)["parts"]["drain"]["busy_percent_before"] == 3


def test_the_page_has_a_place_for_every_part() -> None:
    page = record.PAGE.read_text()
    for name in (*PARTS, "machine", "missed"):
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
