"""The commands, as Cyclopts describes them."""

from __future__ import annotations

import re

from organism_flows.deployments.cli.main import build


async def text(_: str) -> str:
    """Return every command with its options."""
    made = build().generate_docs(output_format="markdown")
    # Without the title and the list of commands, which the page has; and without the usage lines, in which
    # Cyclopts 5.4 puts the name of this program.
    made = re.sub(r"```console\n.*?\n```\n\n", "", made[made.index("## organism ") :])
    return re.sub(r"``([^`\n]+)``", r"`\1`", made)
