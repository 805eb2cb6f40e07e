"""Holds every answer against the published description; undocumented ones fail whichever test got them."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
from fastapi import FastAPI


class Description:
    """What the gateway says of itself."""

    def __init__(self, app: FastAPI) -> None:
        self._document = json.loads(json.dumps(app.openapi()))
        self._paths = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), routes)
            # Those with fewer parameters come first, as they do for the router.
            for path, routes in sorted(self._document["paths"].items(), key=lambda item: item[0].count("{"))
        ]

    async def check(self, answer: httpx.Response) -> None:
        """Fail if ``answer`` is none that the description knows of."""
        path = answer.request.url.raw_path.decode().partition("?")[0]
        routes: dict[str, Any] = next((r for p, r in self._paths if p.fullmatch(path)), {})
        route = routes.get(answer.request.method.lower())
        # What is no route can be no answer of one, and nobody describes a defect.
        if route is None or answer.status_code == 500:
            return
        documented = route["responses"].get(str(answer.status_code))
        assert documented, f"{answer.request.method} {path} answered {answer.status_code}: not described"
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in documented["content"], f"{path}: {kind} is not described"
        if kind.endswith(("/json", "+json")):
            await answer.aread()
            schema = {**documented["content"][kind]["schema"], "components": self._document["components"]}
            jsonschema.validate(answer.json(), schema)
