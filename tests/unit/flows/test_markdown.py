"""Errors and names on the pages of runs: read as they are, whatever markdown they would be."""

from __future__ import annotations

import html
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from organism_flows.flows.prefect_support.markdown import TaskLinks, escaped

MARKDOWN = MarkdownIt("commonmark").enable("strikethrough")


@given(st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs", "Cc"]), min_size=1))
@example("KeyError: '__init__'")
@example("<script>alert(1)</script> [a](javascript:b) &lt; ![](x)")
@example("- 1. # > + = ~~~ 3) | `a`")
@example("1. one")
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    line = " ".join(text.split())
    if line:
        shown = html.unescape(MARKDOWN.render(escaped(text, 10_000)))
        assert shown == f"<p>{line}</p>\n"


def test_a_long_text_is_cut() -> None:
    assert escaped("x" * 301) == "x" * 299 + "…"
    assert escaped(None) == ""


def test_without_a_gateway_a_task_is_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORGANISM_DSN", raising=False)
    task = uuid4()
    assert TaskLinks("postgresql://elsewhere/db").to(task) == str(task)
