"""Run the notebooks and keep what they show: `make notebooks`, or by name on a stack that is up.

python notebooks/execute.py quickstart
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
CELL_TIMEOUT_S = 120


def client_of(name: str, folder: Path = FOLDER) -> NotebookClient:
    """What runs the notebook ``name``, with ``folder`` as its working folder."""
    return NotebookClient(
        nbformat.read(FOLDER / f"{name}.ipynb", as_version=4),
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        # When it ran is of no interest to a reader, and a change in every commit.
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )


async def execute(name: str, env: dict[str, str], folder: Path = FOLDER) -> nbformat.NotebookNode:
    """The notebook ``name`` with what its cells show.

    Args:
        env: Of its kernel.
        folder: Working folder of the kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    client = client_of(name, folder)
    await client.async_execute(env=env)
    return client.nb


def printed(notebook: nbformat.NotebookNode) -> str:
    """What its cells have printed."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Keep of the outputs what a reader wants to see: no log lines, and not where this checkout is."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if _shows(out)]
            for out in cell.outputs:
                if "text" in out:
                    out.text = out.text.replace(str(FOLDER.parent), "…")


def _shows(output: nbformat.NotebookNode) -> bool:
    return output.get("name") == "stdout" or "image/png" in output.get("data", {})


def names() -> list[str]:
    """All notebooks there are."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


async def main() -> None:
    for name in sys.argv[1:] or names():
        notebook = await execute(name, dict(os.environ))
        tidy(notebook)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    asyncio.run(main())
