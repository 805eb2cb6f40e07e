"""Free space on the disks that the embedded stack writes to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LOW_BYTES = 64_000_000
"""Free bytes below which a disk counts as full: Postgres ends when a 16 MB file of its write-ahead log does
not fit."""
HELP = "free some space there; what still runs goes on by itself, and `organism up` starts what has ended"


def full_disks(home: Path) -> list[str]:
    """Return one line for each full disk among those that the stack in ``home`` writes to.

    Args:
        home: Folder of the stack. Its subfolders may lie on other disks. Ray writes to the temporary folder.
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
            continue  # It does not exist yet, or this user may not read it.
        free = room.f_bavail * room.f_frsize
        if free < LOW_BYTES:
            lines.setdefault(disk, f"no space left on the disk of {folder}: {free / 1e6:.0f} MB free")
        elif room.f_files and not room.f_favail:
            lines.setdefault(disk, f"no space left on the disk of {folder}: it can hold no further file")
    return list(lines.values())
