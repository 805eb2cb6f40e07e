"""The route that exports tasks with their params and results, for as many as there are."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from organism_flows.blocks.client.messages import EXPORT_TYPES
from organism_flows.blocks.queue import TaskFilter
from organism_flows.blocks.queue.files.writers import Format, task_writer
from organism_flows.blocks.queue.models import Exported
from organism_flows.serve_apps.gateway.dependencies import AppState, TheQueue, errors, gone
from organism_flows.serve_apps.gateway.http.json_body import Route

PAGE_BYTES = 1_000_000
"""Of a page, as stored. Postgres compresses up to a hundredfold, and a page is held in memory unpacked."""

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=Route)


class ExportQuery(TaskFilter):
    """Which tasks, and how they are written."""

    format: Format = Field(
        default="jsonl", description="JSON lines, or CSV or Parquet with params and results as JSON text."
    )


async def export_slot(request: Request) -> AsyncIterator[None]:
    """Count an export until it has ended; 429 if there are as many as may be."""
    found: AppState = request.app.state.parts
    with found.exports.taken(str(request.state.who)):
        yield


@router.get(
    "/export",
    summary="Export tasks",
    response_class=Response,
    responses={
        200: {
            "description": "The tasks",
            "content": {
                kind: {
                    "schema": {"type": "string", "format": "binary"}
                    if "parquet" in kind
                    else {"type": "string"}
                }
                for kind in EXPORT_TYPES.values()
            },
        },
        **errors(),
    },
    dependencies=[Depends(export_slot)],
)
async def export(query: Annotated[ExportQuery, Query()], queue: TheQueue, request: Request) -> Response:
    """Every task that fits every filter, with params and result, by falling id.

    No task comes twice, and one that fits all the while is there. An answer that ends without its last chunk
    was broken off, and is not whole.
    """
    pages = queue.export(query, page_bytes=PAGE_BYTES)
    # Before the answer begins, so that an outage is a 503. It may take minutes to find a task that fits.
    first = asyncio.ensure_future(anext(pages, []))
    leaving = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({first, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            return Response(status_code=204)  # Nobody reads it.
    finally:
        for each in (first, leaving):
            each.cancel()
    return StreamingResponse(
        _written(query.format, await first, pages),
        media_type=EXPORT_TYPES[query.format],
        headers={"Content-Disposition": f'attachment; filename="tasks.{query.format}"'},
    )


async def _written(
    format: Format, first: list[Exported], pages: AsyncGenerator[list[Exported], None]
) -> AsyncIterator[bytes]:
    sink = io.BytesIO()
    # In threads: a page of Parquet takes tens of milliseconds, and pyarrow half a second to import.
    writer = await asyncio.to_thread(task_writer, format, sink)
    async with aclosing(pages):
        page = first
        while page:
            await asyncio.to_thread(writer.write, page)
            yield _taken(sink)
            page = await anext(pages, [])
    await asyncio.to_thread(writer.close)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    written = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return written
