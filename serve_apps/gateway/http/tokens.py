"""Bearer tokens, kept as their SHA-256 only, each with a scope and perhaps a name."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pydantic import SecretStr

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.access_token import own_token
from organism_flows.blocks.settings import Settings
from organism_flows.serve_apps.http_access import is_loopback

Scope: TypeAlias = Literal["read", "submit", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""The scopes in rising order: each allows all that those before it allow."""
LOOK_EVERY_S = 1.0
"""Shortest time between two checks for changes of the file, in seconds."""
_LINE = re.compile(r"(\w+):([0-9a-fA-F]{64})")


logger = logging.getLogger("organism.gateway")


@dataclass(frozen=True)
class Holder:
    """The holder of a token."""

    scope: Scope
    name: str
    """Text after # in the line of the token, else the beginning of the token's digest."""
    digest: bytes = b""
    """SHA-256 digest of the token; empty if none is needed."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that are accepted."""

    holders: dict[bytes, Holder]
    """Holders by the SHA-256 digest of their token."""

    def holder_of(self, token: str) -> Holder | None:
        """Return the holder of ``token``; `None` means the token is unknown."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Holder | None = None
        # Compare with all of them, each in constant time: the duration must not reveal which one is similar.
        for known, holder in self.holders.items():
            if hmac.compare_digest(known, digest):
                found = holder
        return found


class TokenFile:
    """The tokens of a file. Changes of the file take effect without a restart of the gateway.

    Args:
        path: The file, in the format of `read_tokens`.
        own: Another token, which allows everything.

    Raises:
        ConfigurationError: The file cannot be read or parsed, or holds no token.
    """

    def __init__(self, path: Path, own: SecretStr | None = None) -> None:
        self._path = path
        self._own = own
        self._seen = self._look()
        self._tokens = with_own(read_tokens(path), own)
        self._due = time.monotonic() + LOOK_EVERY_S

    @property
    def tokens(self) -> Tokens:
        """Return the tokens of the last valid version of the file, at most 1 s late."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LOOK_EVERY_S
            if (seen := self._look()) != self._seen:
                self._seen = seen
                try:
                    self._tokens = with_own(read_tokens(self._path), self._own)
                    logger.info("%d tokens are taken now", len(self._tokens.holders))
                except ConfigurationError as error:
                    logger.error("the tokens stay as they were: %s", error)
        return self._tokens

    def _look(self) -> tuple[int, int, int] | None:
        try:
            seen = self._path.stat()
        except OSError:
            return None
        # The time alone is not enough: an editor's new file may have the time of the old one.
        return seen.st_mtime_ns, seen.st_size, seen.st_ino


class OwnToken:
    """The single token of this user's stack.

    Args:
        own: The token.
    """

    def __init__(self, own: SecretStr) -> None:
        self.tokens = with_own(Tokens({}), own)


def with_own(tokens: Tokens, own: SecretStr | None) -> Tokens:
    """Return ``tokens`` with ``own`` added: the token of the gateway's user, which allows everything."""
    if own is None:
        return tokens
    digest = hashlib.sha256(own.get_secret_value().encode()).digest()
    return Tokens({**tokens.holders, digest: Holder("operate", "owner", digest)})


def tokens_of(settings: Settings) -> TokenFile | OwnToken | None:
    """Return the tokens that the gateway accepts; `None` means that no token is needed.

    Raises:
        ConfigurationError: No token is configured, or the file of tokens cannot be read.
    """
    if settings.gateway_open:
        return None
    own = own_token(settings)
    if settings.gateway_tokens is not None:
        return TokenFile(settings.gateway_tokens, own)
    if own is None:
        raise ConfigurationError(
            "the gateway has no token to ask for",
            "set ORGANISM_TOKEN or ORGANISM_GATEWAY_TOKENS; ORGANISM_GATEWAY_OPEN=true lets in whoever is on "
            "this machine",
        )
    return OwnToken(own)


def covers(held: Scope, needed: Scope) -> bool:
    """Return True if a token of scope ``held`` allows what needs the scope ``needed``."""
    return SCOPES.index(held) >= SCOPES.index(needed)


def read_tokens(path: Path) -> Tokens:
    """Return the tokens in a file with one ``scope:sha256hex  # name`` per line; skip empty lines.

    Raises:
        ConfigurationError: The file cannot be read or parsed, or holds no token.
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
            # Do not show the line: it may hold a token by mistake.
            raise ConfigurationError(
                f"{path}, line {number} is not scope:sha256hex with one of {', '.join(SCOPES)}",
                "make one by `printf %s TOKEN | sha256sum`",
            )
        digest = bytes.fromhex(match[2])
        holders[digest] = Holder(scope, name.strip() or match[2][:8].lower(), digest)
    if not holders:
        raise ConfigurationError(f"{path} holds no token", "write at least one line, scope:sha256hex")
    return Tokens(holders)


def check_binding(settings: Settings) -> None:
    """Refuse to listen on an address that other machines reach, unless the settings name a token.

    Raises:
        ConfigurationError: The host is not loopback, and the settings name no token or need none.
    """
    host = settings.gateway_host
    named = settings.gateway_tokens is not None or settings.token is not None
    if is_loopback(host) or (named and not settings.gateway_open):
        return
    raise ConfigurationError(
        f"the gateway does not listen on {host} without tokens: anybody there could run tasks",
        "set ORGANISM_GATEWAY_TOKENS to a file of tokens, or ORGANISM_GATEWAY_HOST=127.0.0.1",
    )
