"""What commands print steers no terminal."""

from __future__ import annotations

import json

import pytest

from organism_flows.deployments.cli.output import show, without_controls

STEERING = ["\x1b[31m", "\x9b2J", "\x07", "\r", "\x7f", "\x08", "\u202e", "\u2066", "\x00", "\ud800"]


@pytest.mark.parametrize("text", STEERING)
def test_text_is_printed_without_what_steers_a_terminal(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show({"type": text}, False, f"a{text}b\n\tc é 日本 👩\u200d🚀")
    printed = capsys.readouterr().out
    assert text[0] not in printed
    assert printed.startswith("a\\")
    assert printed.endswith("b\n\tc é 日本 👩\u200d🚀\n")


@pytest.mark.parametrize("text", STEERING)
def test_json_says_the_same_without_what_steers_a_terminal(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show({"type": text}, True, "")
    printed = capsys.readouterr().out
    assert text[0] not in printed
    assert json.loads(printed) == {"type": text}


def test_ordinary_text_stays() -> None:
    assert without_controls("a\n\tb") == "a\n\tb"
