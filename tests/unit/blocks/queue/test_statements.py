"""Each statement is called with the parameters that its file names, and each file is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from organism_flows.blocks.queue.db.statements import SQL, statement
from organism_flows.blocks.sql_statement import Statement

NAMES = sorted(path.stem for path in SQL.glob("*.sql"))
PARTS = sorted(path.stem for path in (SQL / "parts").glob("*.sql"))
RUN = {"fetch", "fetchrow", "fetchval", "execute"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package of the queue that runs a statement named in it, with that name."""
    for path in SQL.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr=attr), args=[ast.Constant(value=str(name))]) if (
                    attr in RUN
                ):
                    if name in NAMES:
                        yield name, node


CALLS = list(calls())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_named(name: str) -> None:
    text = "\n".join(path.read_text() for path in (SQL / f"{name}.sql", *(SQL / "parts").glob("*.sql")))
    assert not re.search(r"\$\d", text), "write :name"
    run = statement(name)
    assert {int(number) for number in re.findall(r"\$(\d+)", run.text)} == {
        *range(1, len(run.parameters) + 1)
    }


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_every_call_gives_the_parameters_of_its_statement(name: str, call: ast.Call) -> None:
    given = {keyword.arg for keyword in call.keywords} - {"timeout"}
    needed = set(statement(name).parameters)
    if None in given:  # some of them are in a dict
        assert given - {None} <= needed
    else:
        assert given == needed


def test_every_file_is_used() -> None:
    named = "\n".join(path.read_text() for path in SQL.parent.rglob("*.py"))
    text = "\n".join(path.read_text() for path in SQL.rglob("*.sql"))
    assert [name for name in NAMES if not re.search(rf'"{name}"', named)] == []
    assert [part for part in PARTS if text.count(f"{{{part}}}") < 2] == [], "a part is for several statements"


def test_a_parameter_is_no_cast_and_keeps_its_number() -> None:
    run = Statement.of("SELECT :b::text[], :a, (now())::text, :b")
    assert run == Statement("SELECT $1::text[], $2, (now())::text, $1", ("b", "a"))
    assert run.arguments({"a": 1, "b": 2}) == [2, 1]


@pytest.mark.parametrize(
    ("values", "wrong"), [({}, "without a value: a;"), ({"a": 1, "b": 2}, "without a parameter: b")]
)
def test_wrong_parameters_are_named(values: dict[str, int], wrong: str) -> None:
    with pytest.raises(TypeError, match=wrong):
        Statement.of("SELECT :a").arguments(values)
