"""How much of everything a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run."""

    quick: bool = False
    """A tenth of everything: shows that the parts work; what it measures means little."""

    repeat: int | None = None
    """How often to repeat what is repeated; `None` means as often as each part says."""

    def tasks(self, count: int) -> int:
        """How many tasks to do where a full run does ``count``."""
        return max(count // 10, 20) if self.quick else count

    def rounds(self, count: int) -> int:
        """How often to repeat."""
        return 1 if self.quick else self.repeat or count

    def seconds(self, length: float) -> float:
        """How long to go on."""
        return max(length / 10, 4.0) if self.quick else length
