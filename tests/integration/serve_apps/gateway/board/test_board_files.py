"""The files of the board: vendored as published, none from elsewhere, small together."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from organism_flows.serve_apps.gateway.board.files import board_files
from tests.support.gateway.running import Gateway

STATIC = Path(__file__).parents[5] / "serve_apps" / "gateway" / "board" / "static"
FIRST_PAGE_BYTES = 200_000


def test_vendored_files_are_as_published() -> None:
    vendored = json.loads((STATIC / "vendor" / "vendored.json").read_text())
    licences = {one["licence_file"] for one in vendored}
    assert {path.name for path in (STATIC / "vendor").iterdir()} == {
        "vendored.json", *licences, *(one["file"] for one in vendored)
    }  # fmt: skip
    for one in vendored:
        content = (STATIC / "vendor" / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"], one["file"]
        assert one["version"]
        assert one["licence"] in ("MIT", "Apache-2.0")


def test_nothing_comes_from_elsewhere_and_nothing_becomes_html() -> None:
    for path in [*STATIC.glob("*.*"), *(STATIC / "js").iterdir()]:
        text = path.read_text()
        assert not re.search(
            r"""(?:src|href)=["']https?:|import[^;]*["']https?:|url\(\s*["']?https?:""", text
        ), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path


def test_the_page_names_every_module_that_the_first_page_needs() -> None:
    page = (STATIC / "index.html").read_text()
    named = set(re.findall(r'"board/((?:js|vendor)/[\w.-]+\.js)"', page))
    needed, waiting = set(), ["js/app.js"]
    while waiting:
        needed.add(name := waiting.pop())
        found = re.findall(r'^import .* from "\./([\w.-]+)"', (STATIC / name).read_text(), re.MULTILINE)
        waiting += [f"js/{one}" for one in found if f"js/{one}" not in needed]
    vendored = {name for name in board_files() if re.fullmatch(r"vendor/.*\.js", name)}
    assert named == needed | vendored, "modulepreload"


def test_the_first_page_is_small() -> None:
    assert sum(len(file.content) for file in board_files().values()) <= FIRST_PAGE_BYTES


@pytest.mark.anyio
async def test_the_files_are_public_and_nothing_else_is(gateway: Gateway) -> None:
    page = await gateway.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = await gateway.http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304
    for name in (
        "",
        "index.htm",
        "../files.py",
        "%2e%2e/files.py",
        "vendor/preact.LICENSE",
        "js",
        "js/",
        "/etc/passwd",
    ):
        assert (await gateway.http.get(f"/board/{name}")).status_code == 404, name
    assert (
        (await gateway.http.get("/api/tasks"))
        .headers["content-security-policy"]
        .startswith("default-src 'none'; frame")
    )
