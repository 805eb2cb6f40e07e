"""The route that exports any number of tasks with their params and results."""

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
from organism_flows.blocks.queue.models.operations import Exported
from organism_flows.serve_apps.gateway.dependencies import AppState, TheQueue, errors, gone
from organism_flows.serve_apps.gateway.http.json_body import Route

PAGE_BYTES = 1_000_000
"""Size of a page as stored, in bytes. Postgres compresses up to a hundredfold, and a page is held in memory
decompressed."""

router = APIRouter(prefix="/api/tasks", tags=["tasks"], route_class=Route)


class ExportQuery(TaskFilter):
    """Which tasks to export, and in which format."""

    format: Format = Field(
        default="jsonl", description="JSON lines, or CSV or Parquet with params and results as JSON text."
    )


async def export_slot(request: Request) -> AsyncIterator[None]:
    """Count an export until it has ended.

    Raises:
        RequestRefused: Too many exports run already; the client gets 429.
    """
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
    """Return every task that fits all filters, with params and result, in falling order of ids.

    No task comes twice. A task that fits during the whole export is included. An answer that ends without its
    last chunk was cut off and is not complete.
    """
    pages = queue.reader.export(query, page_bytes=PAGE_BYTES)
    # Read the first page before the answer begins, so that an outage is a 503. It may take minutes to find a
    # task that fits.
    first = asyncio.ensure_future(anext(pages, []))
    leaving = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({first, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            return Response(status_code=204)  # the client has disconnected
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
    # In threads, off the event loop: a page of Parquet takes tens of milliseconds, importing pyarrow half a
    # second.
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
