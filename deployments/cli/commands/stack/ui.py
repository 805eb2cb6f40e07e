"""`organism ui`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.output import AsJson, show


def ui(
    *,
    browser: Annotated[
        bool, Parameter(negative="--no-browser", help="Open a browser where there is a screen for one.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Open the Prefect UI of this stack, and print the password that it asks for once.

    The browser keeps the password. The password is generated. It stays the same until you delete its file or
    set PREFECT_SERVER_API_AUTH_STRING for `organism up`.
    """
    import webbrowser

    from organism_flows.blocks.settings import load_settings
    from organism_flows.blocks.stack_state import read_secret, running_stack

    stack = running_stack(load_settings().home)
    # Pass only the address: other users of the machine can read the arguments of a browser.
    opened = browser and not as_json and _has_screen() and webbrowser.open(stack.prefect_ui_url)
    secret = read_secret(stack.prefect_secret_path)
    result = {
        "url": stack.prefect_ui_url,
        "password": secret or None,
        "password_file": str(stack.prefect_secret_path) if stack.prefect_secret_path else None,
        "opened": opened,
    }
    lines = [
        f"Prefect UI  {stack.prefect_ui_url}{'  (opened)' if opened else ''}",
        f"Password    {secret or 'none: run `organism up`, which sets one'}",
    ]
    show(result, as_json, "\n".join(lines))


def _has_screen() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
