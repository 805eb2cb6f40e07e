"""Results as JSON text: exact, or refused with the place."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from organism_flows.blocks.json_text import DEPTH_LIMIT, NotJson, from_json, readable_json, to_json

LIMIT = 1_000_000

plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain_text
)
json_values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4)
)
poison = (
    st.sampled_from([math.nan, math.inf, -math.inf, {1}, b"x", object(), 1j, decimal.Decimal(1), {1: 2}])
    | st.just("a\x00b")
    | st.just("a\ud800b")
    | st.just({"\x00": 1})
    | st.builds(lambda: 1 << 20_000)
)


def place(value: Any, bad: Any, path: list[int | str]) -> Any:
    """``bad`` wrapped so that it sits at ``path`` beside ``value``."""
    for part in reversed(path):
        bad = [*[value] * part, bad] if isinstance(part, int) else {"other": value, part: bad}
    return bad


@given(json_values)
def test_json_values_survive_unaltered(value: Any) -> None:
    text = to_json(value, limit_bytes=LIMIT)
    assert json.loads(text) == value
    assert from_json(text) == value
    assert "\\u0000" not in text.replace("\\\\", "")


@given(json_values, poison, st.lists(st.integers(0, 3) | st.sampled_from(["a", "b"]), max_size=5))
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any, bad: Any, path: list[int | str]) -> None:
    expected = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    with pytest.raises(NotJson) as caught:
        to_json(place(value, bad, path), limit_bytes=LIMIT)
    assert expected in str(caught.value)
    str(caught.value).encode()


@given(st.recursive(leaves | poison, lambda inner: st.lists(inner) | st.tuples(inner, inner), max_leaves=20))
def test_nothing_but_a_refusal_ever_comes_out(value: Any) -> None:
    try:
        text = to_json(value, limit_bytes=LIMIT)
    except NotJson:
        return
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Pair:
    left: Any
    _right: Any


class Model(BaseModel):
    when: datetime.date
    tags: set[int]
    score: float = 0.0


class Text(str):
    pass


class Number(float):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ((1, 2), [1, 2]),
        (Point(1, 2), [1, 2]),
        (Pair(1, None), {"left": 1, "_right": None}),
        (Model(when=datetime.date(2024, 1, 2), tags={3}), {"when": "2024-01-02", "tags": [3], "score": 0.0}),
        ({"c": Colour.RED, "n": None}, {"c": "red", "n": None}),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([datetime.datetime(2024, 1, 2, 3, 4, 5), None], ["2024-01-02T03:04:05", None]),
        (Text("x"), "x"),
        ({Text("k"): Number(1.5)}, {"k": 1.5}),
        (2**64, 2**64),
        ([-(2**63) - 1, 10**30], [-(2**63) - 1, 10**30]),
        ("\\u0000", "\\u0000"),
        ("null", "null"),
    ],
)
def test_values_that_are_nearly_json(value: Any, expected: Any) -> None:
    assert from_json(to_json(value, limit_bytes=LIMIT)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rows": [0, 1, 2, {"score": math.nan}]}, "$.rows[3].score is NaN"),
        (Model(when=datetime.date(2024, 1, 2), tags=set(), score=math.inf), "$.score is Infinity"),
        (Pair(math.nan, 1), "$.left is NaN"),
        ({"a b": {1, 2}}, "$['a b'] is a set"),
        ({"a": {1: 2}}, "$.a has the key 1 of type int"),
        ({"a": b"x"}, "$.a is a bytes, which JSON cannot hold: return text"),
    ],
)
def test_the_message_names_the_place(value: Any, message: str) -> None:
    with pytest.raises(NotJson) as caught:
        to_json(value, limit_bytes=LIMIT)
    assert message in str(caught.value)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("beside", [1, None, 2**70, (1,)])
def test_nesting_is_limited_alike_on_both_paths(beside: Any) -> None:
    assert to_json([nested(DEPTH_LIMIT - 1), beside], limit_bytes=LIMIT)
    for depth in (DEPTH_LIMIT, 100_000):
        with pytest.raises(NotJson, match="nested deeper"):
            to_json([nested(depth), beside], limit_bytes=LIMIT)


def test_the_length_is_in_bytes() -> None:
    assert to_json("é" * 49, limit_bytes=100)
    with pytest.raises(NotJson, match=r"102 bytes of JSON, more than the limit of 100"):
        to_json("é" * 50, limit_bytes=100)


def test_a_value_that_raises_when_read_is_refused() -> None:
    class Hostile(BaseModel):
        def model_dump(self, **_: Any) -> Any:
            raise SystemExit

    for value in (Hostile(), [Hostile(), None], {"a": Hostile()}):
        with pytest.raises(NotJson):
            to_json(value, limit_bytes=LIMIT)


@given(st.integers())
def test_integers_are_read_exactly(number: int) -> None:
    assert from_json(f'{{"n": {number}}}') == {"n": number}


@given(json_values)
def test_what_others_can_read_is_shown_as_it_is(value: Any) -> None:
    assert readable_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[" * 256 + "]" * 256, "(not shown: nested deeper than 254 levels)"),
        ("[" * 5000 + "]" * 5000, "(not shown: nested deeper than 254 levels)"),
        ('{"a": [' + "9" * 4301 + "]}", {"a": ["(not shown: an integer of 4,301 digits, more than 4,300)"]}),
        ("9" * 400 + ".5", "(not shown: a number with a fraction beyond the range of a float)"),
        ("602200000000000000000000", 602200000000000000000000),
        ('"' + "[" * 5000 + '"', "[" * 5000),
    ],
    ids=["deep", "deeper", "digits", "fraction", "large", "text"],
)
def test_what_others_cannot_read_is_shown_in_words(text: str, shown: Any) -> None:
    assert readable_json(text) == shown
    assert json.loads(json.dumps(readable_json(text), allow_nan=False)) == shown


@pytest.mark.parametrize(
    "text", ["9" * 4301, "9" * 400 + ".5", '{"n": 1234567890123456789, "a":' + "[" * 5000]
)
def test_a_handler_gets_no_such_params(text: str) -> None:
    with pytest.raises(ValueError, match=r"digits|float|deeply"):
        from_json(text)
