"""`organism demo` from nothing to nothing: what the README promises in its second command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from organism_flows.deployments.cli.demo import EXPECTED_FAILURES, standard_library
from organism_flows.deployments.stack.local import marks_of
from organism_flows.deployments.stack.state import known_processes
from tests.support.stack import PATIENCE

pytestmark = pytest.mark.stack("own")


@pytest.fixture
def home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="organism-demo-"))
    home.chmod(0o711)
    yield home
    left = marks_of(home).members(known_processes(home))
    for process in left:
        process.kill()
    shutil.rmtree(home, ignore_errors=True)
    assert not left, "the demo left processes behind"


def demo(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "organism_flows.deployments.cli.main", "demo", "--json"],
        env={**os.environ, "ORGANISM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.soak
def test_the_demo_does_what_it_says_and_leaves_nothing(home: Path) -> None:
    process = demo(home)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, f"{out}\n{err}"
    report = json.loads(out)
    modules = len(standard_library())
    assert modules > 500
    assert report["by_status"] == {"completed": modules, "failed": len(EXPECTED_FAILURES)}
    assert report["surprises"] == []
    assert {failure["type"] for failure in report["failures"]} == set(EXPECTED_FAILURES)
    assert report["most_complex"][0]["complexity"] > 50
    assert report["lines"] > 100_000


@pytest.mark.soak  # half a minute; that an interrupted `up` leaves nothing is in test_stack
def test_ctrl_c_in_the_middle_of_the_tasks_leaves_nothing(home: Path) -> None:
    process = demo(home)
    deadline = time.monotonic() + PATIENCE
    assert process.stderr is not None
    for line in process.stderr:
        assert time.monotonic() < deadline
        if line.startswith("tasks: ") and not line.startswith("tasks: 0 "):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
