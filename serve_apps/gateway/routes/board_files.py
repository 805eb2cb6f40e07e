"""The routes of the board's own files."""

from fastapi import APIRouter, HTTPException, Request, Response

from organism_flows.serve_apps.gateway.board.files import INDEX, board_files

router = APIRouter(include_in_schema=False)


def _answer(name: str, request: Request) -> Response:
    file = board_files().get(name)
    if file is None:
        raise HTTPException(404, "the board has no such file")
    headers = {"ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@router.get("/")
async def index(request: Request) -> Response:
    """Return the page."""
    return _answer(INDEX, request)


@router.get("/board/{name:path}")
async def file(name: str, request: Request) -> Response:
    """Return a file that the page needs."""
    return _answer(name, request)
