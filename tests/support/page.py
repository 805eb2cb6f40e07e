"""Code blocks of a page of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


class Page:
    """One page.

    Args:
        name: Path of the file in docs.
    """

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text()

    def block(self, language: str) -> str:
        """The first code block in ``language``."""
        found = re.search(rf"```{language}\n(.*?)```", self.text, re.DOTALL)
        assert found is not None
        return found[1]

    def write(self, folder: Path, *files: tuple[str, str]) -> None:
        """Write blocks, by language, into files of these names."""
        for language, name in files:
            (folder / name).write_text(self.block(language))
