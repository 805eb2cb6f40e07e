"""What is installed: one package, which works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(source: Path, kind: str, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [made] = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_one_package_with_every_module_and_file(wheel: Path) -> None:
    names = names_in(wheel)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"organism_flows"}
    folders = ("blocks", "flows", "serve_apps", "deployments")
    tracked = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    if not tracked:
        pytest.skip("no git here")
    assert {f"organism_flows/{name}" for name in tracked if (ROOT / name).exists()} <= names
    assert "organism_flows/py.typed" in names


def test_a_wheel_made_from_a_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    subprocess.run(["tar", "xzf", sdist, "-C", tmp_path], check=True)
    [source] = tmp_path.glob("organism_flows-*")
    assert names_in(build(source, "wheel", tmp_path / "wheel")) == names_in(wheel)


def test_the_command_runs_from_the_wheel_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    installed, project = tmp_path / "installed", tmp_path / "project"
    project.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    (project / "mine.py").write_text("def greet(task):\n    return 'hello'\n")
    (project / "organism.yaml").write_text(
        "organs:\n  - {id: mine, kind: actuator, task_types: [greet], handler: 'mine:greet'}\n"
    )

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(installed), "ORGANISM_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    main = ("-m", "organism_flows.deployments.cli.main")
    config = ("--config", "organism.yaml")
    assert run("-c", "import organism_flows; print(organism_flows.__file__)").startswith(str(installed))
    assert "dispatch" in run(*main, "--help")
    assert "mine:greet" in run(*main, "handlers", "check", *config, "--json")
    assert "organism_flows.serve_apps.organism.app:build" in run(*main, "serve-config", *config)
