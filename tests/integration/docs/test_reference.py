"""docs/reference: the generated parts are what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate.parts import PAGES, PARTS, current, names

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_a_page_is_current(page: Path, database: str) -> None:
    text = page.read_text()
    assert text == await current(text, database), "run `python -m docs.generate`"


def test_each_part_is_on_one_page() -> None:
    assert sorted(name for page in PAGES for name in names(page.read_text())) == sorted(PARTS)


async def test_a_part_that_is_old_is_made_again() -> None:
    page = "a\n<!-- generated settings -->\nold\n<!-- /generated settings -->\nb\n"
    made = await current(page, "")
    assert made.startswith("a\n<!-- generated settings -->\n\n| variable")
    assert made.endswith("\n<!-- /generated settings -->\nb\n")
    assert await current(made, "") == made
