"""JSON text that Postgres takes as jsonb."""

from __future__ import annotations

import json
from typing import Any


def encode(value: Any, *, limit_bytes: int) -> str:
    text = json.dumps(value, allow_nan=False)
    if len(text) > limit_bytes:
        raise ValueError(f"is {len(text)} bytes as JSON, more than {limit_bytes}")
    return text
