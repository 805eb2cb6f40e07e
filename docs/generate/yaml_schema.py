"""The configuration of the organism, from its models."""

from __future__ import annotations

from docs.generate.rendering import fields, prose
from organism_flows.serve_apps.organism.config import OrganismConfig


async def text(_: str) -> str:
    """Return a table of fields for each part of the file, the whole first."""
    schema = OrganismConfig.model_json_schema()
    sections = {"OrganismConfig": schema, **schema["$defs"]}
    return "\n\n".join(
        f"## {name}\n\n{prose(section.get('description'))}\n\n{fields(section)}"
        for name, section in sections.items()
    )
