"""docs/glossary.md: in order, a sentence a term, and every link leads somewhere."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "glossary.md"
TERMS: dict[str, str] = dict(re.findall(r"^## (.+)\n\n((?:.+\n)+)", PAGE.read_text(), re.MULTILINE))
HEADINGS = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as the usual sites for repositories make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_terms_are_in_order_each_once() -> None:
    assert HEADINGS
    for before, after in pairwise(HEADINGS):
        assert before.casefold() < after.casefold(), f"{after} comes after {before}"


def test_a_term_is_one_sentence() -> None:
    assert list(TERMS) == HEADINGS, "a term has no text"
    page = re.split(r"^## .+$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    for term, text in zip(HEADINGS, page, strict=True):
        sentence = " ".join(text.split())
        assert sentence.endswith("."), term
        assert not re.search(r"[.!?] ", sentence), f"{term} has more than one sentence"


def test_links_lead_to_terms_and_pages() -> None:
    anchors = {anchor(heading) for heading in HEADINGS}
    for term, text in TERMS.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            page, _, place = target.partition("#")
            if page:
                assert (PAGE.parent / page).is_file(), f"{term}: {target}"
            else:
                assert place in anchors, f"{term}: {target}"
                assert place != anchor(term), f"{term} links to itself"
