"""Signed links by which a person sends an event to a task without a token.

A link holds the id of the task, the event, the choice and the moment at which it expires, with a MAC over
them. The gateway keeps no list of links: an event comes once, so the links of a wait are good for one answer.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import orjson

from organism_flows.blocks.local_stack.access_token import own_token
from organism_flows.blocks.settings import Settings

PATH = "/answers"
"""Path of the links, below that of the gateway."""
STYLE = (
    ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}"
    "body{max-width:32rem;margin:3rem auto;padding:0 1rem;overflow-wrap:anywhere}"
    "h1{font-size:1.5rem;line-height:1.25}"
    "button{font:inherit;font-weight:600;padding:.75rem 1.5rem;border:0;border-radius:.5rem;"
    "background:#0b5cad;color:#fff}"
)
"""Style of the page of a link. It stands in the page, which loads nothing."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src "
    f"'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; frame-ancestors 'none'",
    # The form needs an Origin, which browsers leave out for a page that names no referrer.
    "Referrer-Policy": "same-origin",
}
"""Headers of the page that differ from those of the API."""
LINK_LIMIT = 2000
"""Most characters of a link that are read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a link answers."""

    task_id: UUID
    event: str
    choice: str
    expires_at: datetime


class LinkSigner:
    """Signs links, and reads those that it has signed.

    Args:
        secret: What the key of the signatures is derived from.
    """

    def __init__(self, secret: str) -> None:
        # A key of its own: the secret may serve for other things too.
        self._key = hmac.digest(secret.encode(), b"organism answer links", "sha256")

    @classmethod
    def of(cls, settings: Settings) -> LinkSigner | None:
        """Return the signer for these settings; `None` if they name neither a key nor a token."""
        secret = settings.link_key or own_token(settings)
        return cls(secret.get_secret_value()) if secret is not None else None

    def sign(self, answer: Answer) -> str:
        """Return the last part of the URL of a link."""
        fields = [str(answer.task_id), answer.event, answer.choice, answer.expires_at.timestamp()]
        content = orjson.dumps(fields)
        return f"{_encoded(content)}.{_encoded(self._mac(content))}"

    def read(self, link: str) -> Answer | None:
        """Return what a link answers; `None` if this key has not signed it."""
        content, _, mac = link[:LINK_LIMIT].partition(".")
        try:
            signed = _decoded(content)
            if not hmac.compare_digest(_decoded(mac), self._mac(signed)):
                return None
        except ValueError:  # not base64
            return None
        task_id, event, choice, expires = orjson.loads(signed)
        return Answer(UUID(task_id), event, choice, datetime.fromtimestamp(expires, UTC))

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text.encode("ascii") + b"==")
