"""The lines of an answer that comes in pieces."""

from __future__ import annotations


class AnswerLines:
    """Joins the pieces of one answer, and splits them at line feeds.

    `httpx.Response.iter_lines` also splits at other characters, such as U+2028, which JSON text may contain.
    It also returns the part of a line at which an answer was cut off; this class does not.
    """

    def __init__(self) -> None:
        self._unread = b""

    def add(self, piece: bytes) -> list[bytes]:
        """Take a piece of the answer, and return the lines that it completes, without line feeds."""
        *lines, self._unread = (self._unread + piece).split(b"\n")
        return lines
