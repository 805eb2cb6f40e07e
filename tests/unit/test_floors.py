"""The floors of the house: blocks < serve_apps < flows < deployments, and what may not be imported at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_import_contracts_hold() -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("organism_flows.blocks.queue", ("prefect", "ray", "alembic", "sqlalchemy")),
        ("organism_flows.flows.lanes.lane", ("prefect", "ray")),
        ("organism_flows.blocks.client.async_client", ("prefect", "ray", "alembic", "sqlalchemy", "fastapi")),
        ("organism_flows.serve_apps.gateway.__main__", ("prefect", "ray", "alembic", "sqlalchemy")),
        ("organism_flows.deployments.cli.main", ("prefect", "ray", "asyncpg")),
    ],
)
def test_what_must_load_fast_loads_nothing_heavy(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {unwanted!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_files_stay_of_one_idea() -> None:
    longer = {
        str(path.relative_to(ROOT)): lines
        for folder in ("blocks", "serve_apps", "flows", "deployments")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 410
    }
    assert not longer


def test_the_lock_pins_every_hash_and_names_no_index() -> None:
    for name in ("requirements.lock", "requirements-uv.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert "--index" not in text
        packages = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert packages
        assert all("==" in line for line in packages)
        assert text.count("--hash=sha256:") >= len(packages)
