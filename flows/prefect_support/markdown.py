"""Text from outside on the pages of runs, escaped so that markdown shows it as it is."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode
from uuid import UUID

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.stack_state import queue_dsn, read_stack
from organism_flows.blocks.settings import load_settings

# Prefect's UI renders the cells of tables as markdown too: `__init__` would be a bold "init" there.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>~|#&!$]")
_BLOCK = re.compile(r"^(\d*)([-+=.)])")


def one_line(text: str | None, length: int = 200) -> str:
    """Return ``text`` on one line, cut to ``length`` characters."""
    line = " ".join((text or "").split())
    return line if len(line) <= length else line[: length - 1] + "…"


def escaped(text: str | None, length: int = 300) -> str:
    """Return ``text`` on one line, cut to ``length`` characters and escaped for markdown, tables included."""
    line = one_line(text, length)
    return _BLOCK.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", line))


class BoardLinks:
    """References to pages of the board: links, if a gateway of the queue is known. The board signs in itself.

    Args:
        dsn: Connection URL of the queue.
    """

    def __init__(self, dsn: str) -> None:
        settings = load_settings()
        stack = read_stack(settings.home)
        try:
            ours = queue_dsn(settings).get_secret_value() == dsn
        except ConfigurationError:
            ours = False
        url = settings.gateway_url or (stack.gateway_url if stack else None)
        self._base = url.rstrip("/") if url and ours else None

    def to(self, task: UUID) -> str:
        """Return a reference to the task in markdown."""
        return self.page(str(task), f"tasks/{task}") or str(task)

    def page(self, text: str, place: str = "", **query: str) -> str:
        """Return a link to a page of the board in markdown; empty if no gateway is known.

        Args:
            text: What the link says, escaped already.
            place: The page, such as ``failures``.
            query: Its filters.
        """
        if self._base is None:
            return ""
        filters = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return f"[{text}]({self._base}/#/{place}{filters})"
