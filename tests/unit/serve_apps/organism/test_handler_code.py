"""Which files replicas are replaced for when they change."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from organism_flows.serve_apps.organism.config import OrganismConfig, parse_config
from organism_flows.serve_apps.organism.release import handler_code
from organism_flows.serve_apps.organism.release.handler_code import (
    TRUNCATED,
    code_digests,
    code_version,
    imported,
)
from tests.support.organism.helpers import organ


def config(folder: Path, *more: Path, handler: str = "mine:f") -> OrganismConfig:
    paths = [str(path) for path in (folder, *more)]
    return parse_config({"organs": [organ("a", handler)], "python_path": paths})


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        file = folder / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def files(config: OrganismConfig) -> list[str]:
    return list(code_digests(config) or {})


def test_a_handler_that_is_installed_has_none(tmp_path: Path) -> None:
    assert code_digests(config(tmp_path)) is None


def test_the_version_of_a_handler_changes_with_its_own_code_only(tmp_path: Path) -> None:
    write(tmp_path, mine="import helper", helper="", other="")
    both = parse_config(
        {
            "organs": [organ("a", "mine:f"), organ("b", "other:f")],
            "python_path": [str(tmp_path)],
        }
    )
    a, b = (one for one in both.organs if one.id in ("a", "b"))
    before = code_version(both, a)
    write(tmp_path, other="x = 1")
    assert code_version(both, a) == before != code_version(both, b)
    write(tmp_path, helper="x = 1")
    assert code_version(both, a) != before


def test_the_version_of_an_installed_handler_is_that_of_its_package(tmp_path: Path) -> None:
    installed = config(tmp_path, handler="pydantic.json:f")
    assert code_version(installed, installed.organs[0]) == f"pydantic {version('pydantic')}"
    unknown = config(tmp_path)
    assert code_version(unknown, unknown.organs[0]) is None


def test_what_a_handler_imports_belongs_to_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        mine="import json, helper as h\nfrom tools.deep import x\n",
        helper="def late():\n    import later\n",
        later="",
        tools__deep="",
        tools__other="",
        unrelated="",
    )
    wanted = config(tmp_path)
    assert files(wanted) == ["helper.py", "later.py", "mine.py", "tools/deep.py", "tools/other.py"]
    before = code_digests(wanted)
    write(tmp_path, unrelated="x = 1")
    assert code_digests(wanted) == before
    write(tmp_path, later="x = 1")
    after = code_digests(wanted)
    assert before is not None
    assert after is not None
    assert {name for name in after if after[name] != before[name]} == {"later.py"}


def test_the_place_of_a_project_is_no_matter(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write(tmp_path / place, mine="import helper", helper="x = 1")
    (tmp_path / "empty").mkdir()
    here = code_digests(config(tmp_path / "here", tmp_path / "empty"))
    assert here == code_digests(config(tmp_path / "there")) != None  # noqa: E711


def test_the_first_folder_that_has_a_module_counts(tmp_path: Path) -> None:
    write(tmp_path / "one", mine="x = 1")
    write(tmp_path / "two", mine="x = 2", only="")
    one = code_digests(config(tmp_path / "one", tmp_path / "two"))
    assert one == code_digests(config(tmp_path / "one"))


def test_folders_are_behind_everything_else_that_is_importable(tmp_path: Path) -> None:
    write(tmp_path, mine="import json, httpx", json="", httpx__init="")
    assert files(config(tmp_path)) == ["mine.py"]


def test_what_cannot_be_imported_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, mine__a="", mine__b="")
    for folder in (".venv", "node_modules", "__pycache__", "env", "not-a-package"):
        write(tmp_path / "mine" / folder, code="")
    (tmp_path / "mine" / "env" / "pyvenv.cfg").touch()
    (tmp_path / "mine" / "not-a-module.py").touch()
    (tmp_path / "mine" / "data.json").touch()
    assert files(config(tmp_path, handler="mine.a:f")) == ["mine/a.py", "mine/b.py"]


@pytest.mark.parametrize("bound", ["MAX_FILES", "MAX_BYTES", "MAX_ENTRIES"])
def test_there_is_a_bound_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(handler_code, bound, 3)
    write(tmp_path, **{f"mine__m{number}": "x=1" for number in range(9)})
    digests = code_digests(config(tmp_path, handler="mine:f"))
    assert digests is not None
    assert digests[TRUNCATED] == "not compared"
    assert len(digests) <= 4


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c as d  # e, f", {"a", "c"}),
        ("from a.b import (\n  c,\n)", {"a"}),
        ("from . import a\nfrom .b import c", set()),
        ("  import a", {"a"}),
        ("try:\n\timport a\nexcept ImportError: pass", {"a"}),
        ("importlib.import_module('a.b')\n__import__(\n  \"c\")", {"a", "c"}),
        ("importance = 1\nfrom_here = 2\n# import a", set()),
        ("\xff\x00import é", set()),
    ],
)
def test_imports_are_read_off_the_text(source: str, names: set[str]) -> None:
    assert imported(source.encode("latin-1")) == names
