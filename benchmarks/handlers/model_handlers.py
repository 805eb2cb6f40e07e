"""A handler that keeps models, as a user of Serve writes it."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve


class Models:
    """Keep four models, each of which takes ``params.load_s`` to load, and take 10 ms with one of them."""

    def __init__(self) -> None:
        self._load_s = 0.0

    @serve.multiplexed(max_num_models_per_replica=4)  # type: ignore[untyped-decorator]
    async def model(self, name: str) -> dict[str, int]:
        await asyncio.sleep(self._load_s)
        return {"uses": 0}

    async def __call__(self, task: dict[str, Any]) -> dict[str, bool]:
        """Say whether the model was loaded for this task."""
        self._load_s = task["params"]["load_s"]
        model = await self.model(task["params"]["model"])
        model["uses"] += 1
        first = model["uses"] == 1
        await asyncio.sleep(0.01)
        return {"loaded": first}
