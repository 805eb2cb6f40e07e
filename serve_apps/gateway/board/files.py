"""The files of the board, read once from the package, and the headers they are sent with."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Media types of the files that are served. Others, such as licences, stay in the package."""


@dataclass(frozen=True)
class BoardFile:
    """A file of the board."""

    content: bytes
    media_type: str
    etag: str


@cache
def board_files() -> dict[str, BoardFile]:
    """Return the files of the board by their path below ``static``."""
    return dict(_files(_static(), ""))


def inline_script_hash() -> str:
    """Return the hash of the one script that stands in the page itself, as a source for the policy.

    That script is the import map, which cannot be a file of its own.
    """
    page = _static().joinpath(INDEX).read_text(encoding="utf-8")
    [script] = re.findall(r'<script type="importmap">(.*?)</script>', page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _static() -> Traversable:
    return files("organism_flows.serve_apps.gateway.board").joinpath("static")


def _files(folder: Traversable, prefix: str) -> list[tuple[str, BoardFile]]:
    found: list[tuple[str, BoardFile]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
            continue
        media_type = TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found.append((f"{prefix}{entry.name}", BoardFile(content, media_type, etag)))
    return found


BOARD_HEADERS = {
    # Nothing but these files and this server. `trusted-types 'none'` lets no script make HTML out of text, so
    # what a task says can only be shown as text.
    "Content-Security-Policy": "default-src 'none'; "
    f"script-src 'self' {inline_script_hash()}; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    # A browser asks whether its copy is still the same, so an upgrade shows at once.
    "Cache-Control": "no-cache",
}
"""Headers of the board's files that differ from those of the API."""
