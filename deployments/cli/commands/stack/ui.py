"""`organism ui`."""

from __future__ import annotations

import contextlib
import html
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from organism_flows.deployments.cli.output import AsJson, show

if TYPE_CHECKING:
    from organism_flows.blocks.local_stack.access_token import GatewayAddress
    from organism_flows.blocks.settings import Settings

SIGN_IN_FILE = "sign-in.html"
TIMEOUT_S = 5.0
PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>Organism</title>
<p><a href="{url}">Open the board</a></p>
"""


def ui(
    page: Literal["board", "prefect"] = "board",
    /,
    *,
    browser: Annotated[
        bool, Parameter(negative="--no-browser", help="Open a browser where there is a screen for one.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Open the board of this stack, signed in; or Prefect's UI. Print both addresses, and what they ask for.

    Prefect's UI asks for its password once, and the browser keeps it. The password is generated. It stays the
    same until you delete its file or set PREFECT_SERVER_API_AUTH_STRING for `organism up`.

    Args:
        page: `board` or `prefect`.
        browser: Open a browser.
        as_json: Print the result as JSON.
    """
    import webbrowser

    from organism_flows.blocks.errors import ConfigurationError
    from organism_flows.blocks.local_stack.access_token import gateway_address
    from organism_flows.blocks.local_stack.stack_state import read_secret, running_stack
    from organism_flows.blocks.settings import load_settings

    settings = load_settings()
    stack = running_stack(settings.home)
    gateway: GatewayAddress | None = None
    with contextlib.suppress(ConfigurationError):
        gateway = gateway_address(settings)
    wanted = stack.prefect_ui_url if page == "prefect" or gateway is None else sign_in_page(gateway, settings)
    # Pass only an address without a secret: other users of the machine can read the arguments of a browser.
    opened = browser and not as_json and _has_screen() and webbrowser.open(wanted)
    secret = read_secret(stack.prefect_secret_path)
    result: dict[str, Any] = {
        "url": stack.prefect_ui_url,
        "password": secret or None,
        "password_file": str(stack.prefect_secret_path) if stack.prefect_secret_path else None,
        "board": gateway.url if gateway else None,
        "token": gateway.token if gateway else None,
        "opened": opened,
    }
    mark = "  (opened)" if opened else ""
    lines = [
        f"Board       {gateway.url}{mark if page == 'board' else ''}"
        if gateway
        else "Board       none: the stack was started without its gateway",
        *([f"Token       {gateway.token}"] if gateway and gateway.token else []),
        f"Prefect UI  {stack.prefect_ui_url}{mark if page == 'prefect' or gateway is None else ''}",
        f"Password    {secret or 'none: run `organism up`, which sets one'}",
    ]
    show(result, as_json, "\n".join(lines))


def sign_in_page(gateway: GatewayAddress, settings: Settings) -> str:
    """Return the address to open: a file of this user's that leads to the board with a code.

    The code works once. Without an answer of the gateway, it is the address of the board itself.
    """
    import httpx

    from organism_flows.blocks.local_stack.access_token import bearer

    base = gateway.url.rstrip("/")
    try:
        answer = httpx.post(
            f"{base}/api/session/codes", headers=bearer(gateway.token), timeout=TIMEOUT_S, trust_env=False
        )
        code = answer.json()["code"] if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, KeyError):
        code = None
    if code is None:
        # The page itself says what is wrong, or asks for the token.
        return f"{base}/"
    try:
        return _write(settings.home / SIGN_IN_FILE, f"{base}/#sign-in={code}").as_uri()
    except OSError:
        return f"{base}/"


def _write(path: Path, url: str) -> Path:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(PAGE.format(url=html.escape(url)))
    return path


def _has_screen() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
