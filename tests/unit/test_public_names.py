"""What users import from `organism_flows`, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys

import organism_flows

NAMES = {
    "Client",
    "MustLeave",
    "NewTask",
    "Organism",
    "PermanentError",
    "RayCluster",
    "RetryAfter",
    "StaleClaim",
    "StreamBegin",
    "StreamChunk",
    "StreamFull",
    "SyncClient",
    "TaskQueue",
    "WaitFor",
    "bootstrap",
    "dispatch",
    "redrive",
    "submit",
    "verify",
    "watchdog",
}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_these_and_each_is_there() -> None:
    assert set(organism_flows.__all__) == NAMES
    assert set(dir(organism_flows)) >= NAMES
    for name in NAMES:
        assert getattr(organism_flows, name).__module__.startswith("organism_flows.")


def test_importing_the_package_and_its_client_loads_nothing_heavy() -> None:
    said = python("""
import json, sys
before = set(sys.modules)
import organism_flows
loaded = {name.partition('.')[0] for name in set(sys.modules) - before}
from organism_flows import Client, PermanentError
heavy = [name for name in ('prefect', 'ray', 'sqlalchemy', 'fastapi') if name in sys.modules]
print(json.dumps([sorted(loaded - set(sys.stdlib_module_names)), heavy]))
""")
    assert json.loads(said) == [["organism_flows"], []]


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(organism_flows, "Nothing")
