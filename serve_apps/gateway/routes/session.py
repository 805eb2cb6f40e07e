"""The routes that sign a browser in and out."""

from fastapi import APIRouter, Request, Response

from organism_flows.blocks.client.board_messages import Session, SignedOut, SignInCode, SignInRequest
from organism_flows.serve_apps.gateway.dependencies import TheParts, errors
from organism_flows.serve_apps.gateway.http.json_body import Route
from organism_flows.serve_apps.gateway.http.problems import RequestRefused
from organism_flows.serve_apps.gateway.http.sessions import CODE_S, session_secret, set_cookie
from organism_flows.serve_apps.gateway.http.tokens import Holder

WITHOUT_BODY = errors("not-json")

router = APIRouter(prefix="/api/session", tags=["session"], route_class=Route)


@router.get("", summary="Who is signed in", responses=errors())
async def who(request: Request, parts: TheParts) -> Session:
    """Return the holder of the token, or of the session, that came with the request."""
    return _session(request.state.holder, tokens=parts.tokens is not None)


@router.post("", summary="Sign a browser in", responses=errors("bad-request", "too-large", "not-json"))
async def sign_in(body: SignInRequest, parts: TheParts, request: Request, response: Response) -> Session:
    """Open a session for the holder of a token, and set its cookie.

    The session ends after 12 hours, with its token, or when the gateway ends. The cookie is for this site
    alone; with it, requests that change something need an `Origin`, as browsers send it.
    """
    if parts.tokens is None:
        return _session(request.state.holder, tokens=False)
    known = parts.tokens.tokens
    if body.token is not None:
        holder = known.holder_of(body.token)
        what = "this token is not known"
        step = "`organism ui` prints the token of your stack; the operator of the gateway has others"
    else:
        holder = known.holders.get(parts.sessions.use_code(body.code or "") or b"")
        what, step = "this code was used already, or is too old", "run `organism ui` again"
    if holder is None:
        raise RequestRefused("unauthenticated", what, next_step=step)
    parts.sessions.close(session_secret(request.scope))
    response.headers["Set-Cookie"] = set_cookie(request.scope, parts.sessions.open(holder.digest))
    return _session(holder, tokens=True)


@router.post("/sign-out", summary="Sign a browser out", responses=WITHOUT_BODY)
async def sign_out(parts: TheParts, request: Request, response: Response) -> SignedOut:
    """End the session, and take its cookie away."""
    secret = session_secret(request.scope)
    response.headers["Set-Cookie"] = set_cookie(request.scope, None)
    return SignedOut(ended=parts.sessions.close(secret))


@router.post("/codes", summary="Get a code that signs a browser in", responses=WITHOUT_BODY)
async def make_code(parts: TheParts, request: Request) -> SignInCode:
    """Return a code that opens one session with the rights of this request, within a minute.

    A program that opens a browser hands on a code, so that the token stands in no address and no history.
    """
    holder: Holder = request.state.holder
    return SignInCode(code=parts.sessions.make_code(holder.digest), expires_in_s=CODE_S)


def _session(holder: Holder, *, tokens: bool) -> Session:
    return Session(name=holder.name, scope=holder.scope, tokens=tokens)
