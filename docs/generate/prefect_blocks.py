"""The Prefect blocks, from their fields."""

from __future__ import annotations

from docs.generate.rendering import fields, prose
from organism_flows import Organism, RayCluster, TaskQueue


async def text(_: str) -> str:
    """Return each block with a table of its fields."""
    parts = []
    for block in (TaskQueue, Organism, RayCluster):
        schema = block.model_json_schema()
        every = schema["properties"]
        own = {name: every[name] for name in block.model_fields if name in every}
        parts += [
            f"## {block.get_block_type_name()}",
            f"`{block.__name__}`, slug `{block.get_block_type_slug()}`.",
            prose((block.__doc__ or "").partition("Example:")[0]),
            fields({**schema, "properties": own}),
        ]
    return "\n\n".join(parts)
