"""Who may do what: bearer tokens, known by their SHA-256 alone, each with a scope and perhaps a name."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from blocks.errors import ConfigurationError

Scope: TypeAlias = Literal["read", "submit", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each may do what those before it may."""
LOOK_EVERY_S = 1.0
_LINE = re.compile(r"(\w+):([0-9a-fA-F]{64})")


logger = logging.getLogger("organism.gateway")


@dataclass(frozen=True)
class Holder:
    """Who has a token."""

    scope: Scope
    name: str
    """What stands after # beside the token, else the beginning of its digest."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that are taken."""

    holders: dict[bytes, Holder]
    """By SHA-256 digest."""

    def holder_of(self, token: str) -> Holder | None:
        """Who has ``token``; None: it is none of ours."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Holder | None = None
        # All of them, each in constant time: how long it takes tells nothing of which is near.
        for known, holder in self.holders.items():
            if hmac.compare_digest(known, digest):
                found = holder
        return found


class TokenFile:
    """The tokens of a file as it is now: who adds or takes away a line need not restart the gateway.

    Args:
        path: The file, as `read_tokens` reads it.

    Raises:
        ConfigurationError: It cannot be read or understood, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()
        self._tokens = read_tokens(path)
        self._due = time.monotonic() + LOOK_EVERY_S

    @property
    def tokens(self) -> Tokens:
        """Those of the last file that could be understood, a second late at most."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LOOK_EVERY_S
            if (seen := self._look()) != self._seen:
                self._seen = seen
                try:
                    self._tokens = read_tokens(self._path)
                    logger.info("%d tokens are taken now", len(self._tokens.holders))
                except ConfigurationError as error:
                    logger.error("the tokens stay as they were: %s", error)
        return self._tokens

    def _look(self) -> tuple[int, int, int] | None:
        try:
            seen = self._path.stat()
        except OSError:
            return None
        # Not the time alone: an editor's new file may have that of the old one.
        return seen.st_mtime_ns, seen.st_size, seen.st_ino


def covers(held: Scope, needed: Scope) -> bool:
    """Whether a token of scope ``held`` may do what needs ``needed``."""
    return SCOPES.index(held) >= SCOPES.index(needed)


def read_tokens(path: Path) -> Tokens:
    """The tokens in a file, one ``scope:sha256hex  # name`` a line; empty lines are skipped.

    Raises:
        ConfigurationError: It cannot be read or understood, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(
            f"cannot read the tokens in {path}: {reason}", "correct ORGANISM_GATEWAY_TOKENS"
        ) from None
    holders: dict[bytes, Holder] = {}
    for number, line in enumerate(lines, 1):
        text, _, name = line.partition("#")
        if not (text := text.strip()):
            continue
        match = _LINE.fullmatch(text)
        scope = next((scope for scope in SCOPES if match and match[1] == scope), None)
        if match is None or scope is None:
            # Not the line itself: somebody may have written a token there.
            raise ConfigurationError(
                f"{path}, line {number} is not scope:sha256hex with one of {', '.join(SCOPES)}",
                "make one by `printf %s TOKEN | sha256sum`",
            )
        holders[bytes.fromhex(match[2])] = Holder(scope, name.strip() or match[2][:8].lower())
    if not holders:
        raise ConfigurationError(f"{path} holds no token", "write at least one line, scope:sha256hex")
    return Tokens(holders)


@lru_cache(maxsize=1000)
def is_loopback(host: str) -> bool:
    """Whether nobody but this machine is at ``host``."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    return address.is_loopback or bool(
        (mapped := getattr(address, "ipv4_mapped", None)) and mapped.is_loopback
    )


def check_binding(host: str, *, tokens: bool) -> None:
    """Refuse to listen where others are without asking who they are.

    Raises:
        ConfigurationError: ``host`` is not loopback, and no ``tokens`` are asked for.
    """
    if not tokens and not is_loopback(host):
        raise ConfigurationError(
            f"the gateway does not listen on {host} without tokens: anybody there could run tasks",
            "set ORGANISM_GATEWAY_TOKENS to a file of tokens, or ORGANISM_GATEWAY_HOST=127.0.0.1",
        )
