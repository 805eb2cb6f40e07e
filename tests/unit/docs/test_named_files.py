"""The pages for contributors: every file and every make target that they name is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/explanation/architecture.md", "docs/glossary.md")
FOLDERS = ("blocks", "serve_apps", "flows", "deployments", "tests", "docs", "benchmarks", ".ci", ".github")
SUFFIX = r"(?:py|sql|md|ya?ml|json|toml|lock|sh)"
PLACEHOLDER = re.compile(r"N{2,}|NAME|000N")


@cache
def files() -> frozenset[str]:
    """Return the paths of the repository, and of its folders with a slash at the end."""
    found = {f"/{path.name}" for path in ROOT.iterdir() if path.is_file()}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if "__pycache__" not in path.parts:
                found.add(f"/{path.relative_to(ROOT)}" + ("/" if path.is_dir() else ""))
    return frozenset(found)


def named(text: str) -> set[str]:
    """Return the files and folders that a page names in code, with or without the folders before them."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    paths = {span for span in spans if re.fullmatch(rf"[\w./-]+(?:\.{SUFFIX}|/)", span)}
    return {path for path in paths if not PLACEHOLDER.search(path)}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page: str) -> None:
    missing = {
        path
        for path in named((ROOT / page).read_text())
        if not any(file.endswith(f"/{path}") for file in files())
    }
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_is_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE)) <= targets


def test_files_in_the_commands_are_there() -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL))
    tests = set(re.findall(r"tests/[\w./]+\.py", commands))
    assert tests
    assert all((ROOT / test).is_file() for test in tests)
