"""Errors and names on the pages of runs: read as they are, whatever markdown they would be."""

from __future__ import annotations

import html
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from organism_flows.flows.prefect_support.markdown import BoardLinks, escaped

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
    links = BoardLinks("postgresql://elsewhere/db")
    assert (links.to(task), links.page("All", "failures")) == (str(task), "")


def test_links_lead_to_the_board_of_the_queue_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORGANISM_DSN", "postgresql://here/db")
    monkeypatch.setenv("ORGANISM_GATEWAY_URL", "https://gateway.example.com/base/")
    task, links = uuid4(), BoardLinks("postgresql://here/db")
    assert links.to(task) == f"[{task}](https://gateway.example.com/base/#/tasks/{task})"
    hostile = 'x) "<b>](javascript:y'
    rendered = MARKDOWN.render(links.page(escaped(hostile), "failures", type=hostile))
    target = "https://gateway.example.com/base/#/failures?type=x%29%20%22%3Cb%3E%5D%28javascript%3Ay"
    assert rendered.startswith(f'<p><a href="{target}">')
    assert html.unescape(rendered).endswith(f">{hostile}</a></p>\n")
    assert BoardLinks("postgresql://elsewhere/db").to(task) == str(task)
