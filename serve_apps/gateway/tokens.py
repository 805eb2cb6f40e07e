"""Who may do what: bearer tokens, known by their SHA-256 alone, each with a scope."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from blocks.errors import ConfigurationError

Scope: TypeAlias = Literal["read", "submit", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each may do what those before it may."""
_LINE = re.compile(r"(\w+):([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Tokens:
    """The tokens that are taken."""

    scopes: dict[bytes, Scope]
    """By SHA-256 digest."""

    def scope_of(self, token: str) -> Scope | None:
        """What ``token`` may do; None: it is none of ours."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Scope | None = None
        # All of them, each in constant time: how long it takes tells nothing of which is near.
        for known, scope in self.scopes.items():
            if hmac.compare_digest(known, digest):
                found = scope
        return found


def covers(held: Scope, needed: Scope) -> bool:
    """Whether a token of scope ``held`` may do what needs ``needed``."""
    return SCOPES.index(held) >= SCOPES.index(needed)


def read_tokens(path: Path | None) -> Tokens | None:
    """The tokens in a file, one ``scope:sha256hex`` a line; empty lines and those after # are skipped.

    Raises:
        ConfigurationError: It cannot be read or understood, or holds none.
    """
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(
            f"cannot read the tokens in {path}: {reason}", "correct ORGANISM_GATEWAY_TOKENS"
        ) from None
    scopes: dict[bytes, Scope] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        match = _LINE.fullmatch(text)
        scope = next((scope for scope in SCOPES if match and match[1] == scope), None)
        if match is None or scope is None:
            # Not the line itself: somebody may have written a token there.
            raise ConfigurationError(
                f"{path}, line {number} is not scope:sha256hex with one of {', '.join(SCOPES)}",
                "make one by `printf %s TOKEN | sha256sum`",
            )
        scopes[bytes.fromhex(match[2])] = scope
    if not scopes:
        raise ConfigurationError(f"{path} holds no token", "write at least one line, scope:sha256hex")
    return Tokens(scopes)


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


def check_binding(host: str, tokens: Tokens | None) -> None:
    """Refuse to listen where others are without asking who they are.

    Raises:
        ConfigurationError: ``host`` is not loopback, and there are no tokens.
    """
    if tokens is None and not is_loopback(host):
        raise ConfigurationError(
            f"the gateway does not listen on {host} without tokens: anybody there could run tasks",
            "set ORGANISM_GATEWAY_TOKENS to a file of tokens, or ORGANISM_GATEWAY_HOST=127.0.0.1",
        )
