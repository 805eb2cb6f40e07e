"""Room on the disks that the embedded stack writes to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LOW_BYTES = 64_000_000
"""Less than this is as good as nothing: Postgres ends when a file of 16 MB of its log does not fit."""
HELP = "free some space there; what still runs goes on by itself, and `organism up` starts what has ended"


def full_disks(home: Path) -> list[str]:
    """Return a line for each disk without room, of those that the stack in ``home`` writes to.

    Args:
        home: Folder of the stack. Parts of it may be disks of their own. Ray writes to the temporary folder.
    """
    lines: dict[int, str] = {}
    for folder in (
        home,
        home / "postgres" / "data",
        home / "ray",
        home / "logs",
        Path(tempfile.gettempdir()),
    ):
        try:
            disk, room = folder.stat().st_dev, os.statvfs(folder)
        except OSError:
            continue  # Not there yet, or not ours to see.
        free = room.f_bavail * room.f_frsize
        if free < LOW_BYTES:
            lines.setdefault(disk, f"no space left on the disk of {folder}: {free / 1e6:.0f} MB free")
        elif room.f_files and not room.f_favail:
            lines.setdefault(disk, f"no space left on the disk of {folder}: it can hold no further file")
    return list(lines.values())
