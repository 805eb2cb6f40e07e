"""code.metrics: real figures, readable refusals."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from organism_flows.serve_apps.organism import PermanentError
from organism_flows.serve_apps.organism.handlers.code_metrics import handle

SOURCE = '''"""Doc
string."""
import os, sys
from . import near
from a.b import c

# a comment

class A:
    """Doc."""

    @property
    def x(self):
        return 1

    @x.setter
    def x(self, value):
        if value:
            pass

if True:
    def branches(x):
        try:
            for y in x:
                while y:
                    y -= 1
        except ValueError:
            if x: pass
        finally:
            if x: pass
        match x:
            case 1: pass
            case [2, _] if y: pass
            case _: pass

async def outer():
    def inner():
        return x if y else z
'''


def measure(tmp_path: Path, source: str | bytes) -> dict[str, Any]:
    file = tmp_path / "module.py"
    file.write_bytes(source if isinstance(source, bytes) else source.encode())
    return handle({"type": "code.metrics", "params": {"path": str(file)}})


def test_figures(tmp_path: Path) -> None:
    figures = measure(tmp_path, SOURCE)
    assert figures["lines"] == len(SOURCE.splitlines())
    assert figures["code_lines"] == 28
    assert figures["functions"] == 5
    assert figures["classes"] == 1
    assert figures["imports"] == [".", "a.b", "os", "sys"]
    # 1, for, while, except, if in it, if in finally, two cases that may fail to match
    assert figures["complexity"] == {"max": 8, "mean": 3.0, "function": "branches", "line": 22}


def test_an_empty_file(tmp_path: Path) -> None:
    figures = measure(tmp_path, "")
    assert figures["lines"] == figures["functions"] == figures["complexity"]["max"] == 0
    assert figures["complexity"]["function"] is None


def test_encodings(tmp_path: Path) -> None:
    assert measure(tmp_path, "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))["lines"] == 2
    assert measure(tmp_path, b"\xef\xbb\xbfx = 1\n")["lines"] == 1


def test_a_line_ends_where_python_ends_it(tmp_path: Path) -> None:
    figures = measure(tmp_path, 'x = 1\r\n\f\ny = "a\u2028b\x85"  # \x1c\n"""z\n"""')
    assert (figures["lines"], figures["code_lines"]) == (5, 4)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\ndef f(:\n", ["module.py:2: does not parse: invalid syntax"]),
        ("x = '\x00'", ["module.py", "null bytes"]),
        ("(" * 5000, ["module.py", "does not parse"]),
        ("-" * 200_000 + "1", ["module.py", "does not parse"]),
        (b"x = '\xe9'", ["module.py", "not Python text"]),
        (b"# coding: klingon\n", ["module.py", "klingon"]),
    ],
)
def test_what_does_not_parse_is_a_permanent_error(
    tmp_path: Path, source: str | bytes, words: list[str]
) -> None:
    with pytest.raises(PermanentError) as caught:
        measure(tmp_path, source)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "params.path is missing: code.metrics needs it"),
        ({"path": 7}, "params.path is 7, not text"),
        ({"path": "/no/such/file.py"}, "params.path: there is no file /no/such/file.py"),
        ({"path": "/"}, "params.path: / is not a file"),
        ({"path": "a\x00b"}, "not Python text"),
        ([], "params is a list, not a mapping"),
    ],
)
def test_wrong_params_are_a_permanent_error(params: Any, words: str) -> None:
    with pytest.raises(PermanentError) as caught:
        handle({"type": "code.metrics", "params": params})
    assert words in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(PermanentError, match="is not a file"):
        handle({"type": "code.metrics", "params": {"path": str(tmp_path / "pipe.py")}})


def test_the_standard_library_is_measured() -> None:
    folder = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(folder.glob("*.py")):
        figures = handle({"type": "code.metrics", "params": {"path": str(file)}})
        assert figures["complexity"]["max"] >= (1 if figures["functions"] else 0)
        assert 0 <= figures["code_lines"] <= figures["lines"]
