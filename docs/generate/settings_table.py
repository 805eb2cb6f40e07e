"""The settings, from `Settings`."""

from __future__ import annotations

from docs.generate.rendering import code, default, kind, says, table
from organism_flows.blocks.settings import OLDER_NAMES, Settings

COMPUTED = {"home": "`~/.organism`; of root `/var/lib/organism`"}
"""Defaults that a function finds."""


async def text(_: str) -> str:
    """Return a table of every setting, and one of the older names."""
    properties = Settings.model_json_schema(by_alias=False)["properties"]
    rows = [
        [code(f"ORGANISM_{name.upper()}"), kind(field), COMPUTED.get(name) or default(field), says(field)]
        for name, field in properties.items()
    ]
    older = table(["older name", "use"], [[code(old), code(new)] for old, new in OLDER_NAMES.items()])
    return f"{table(['variable', 'type', 'default', 'what it is'], rows)}\n\n## Older names\n\n{older}"
