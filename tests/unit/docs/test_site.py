"""The site builds without a warning, and no link of a page leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.page import DOCS

ROOT = DOCS.parent
# Pages outside of the site.
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
# These have long tables of figures, or are written by a program.
WRAPPED = ("README.md", "docs/README.md", "docs/start/*.md", "docs/how-to/*.md", "docs/runbook/*.md")


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A broken link, a broken anchor or a page that no navigation names is a warning."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "cache")]
    done = subprocess.run(
        [*command, DOCS, tmp_path / "html"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html/index.html").is_file()


@pytest.mark.parametrize("name", ROOT_PAGES)
def test_links_of_the_pages_outside_of_the_site(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", sorted({p for glob in WRAPPED for p in ROOT.glob(glob)}), ids=str)
def test_lines_have_at_most_100_characters(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "!["))]
    assert not [line for line in lines if len(line) > 100]
