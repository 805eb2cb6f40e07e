"""What a person sees and does on the board: a real Chromium, a real gateway, a real Postgres.

One browser, one gateway and one queue serve all tests of this module. A test that changes the queue uses
tasks of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import axe_playwright_python
import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from docs.chromium import find_chromium
from organism_flows.blocks.local_stack.access_token import GatewayAddress
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.cli.commands.stack.ui import sign_in_page
from tests.conftest import Databases
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.gateway.story import HOSTILE, WAITING, ServingOrganism, fill

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH"),
]
AXE = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js"))
PREFECT = "http://prefect.test"
TOKENS = {"read": "may-read", "operate": "may-operate"}
PAGES = {
    "": "Now",
    "tasks": "Tasks",
    "failures": "Failures",
    "types": "Types",
    "system": "Lanes and organism",
    "audit": "Audit",
}
WAIT_MS = 30_000
"""For a machine that hangs."""
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield started
        await started.close()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_UI_URL", PREFECT)
        yield patch


@pytest.fixture(scope="module")
async def board(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory, elsewhere: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway on a queue with something of everything, and the queue's address."""
    dsn = await databases.create()
    await fill(dsn)
    tokens = token_file(tmp_path_factory.mktemp("tokens"), **TOKENS)
    async with running(
        dsn, organism=ServingOrganism(), gateway_tokens=tokens, token="may-operate", link_key="k" * 32
    ) as gateway:
        yield gateway, dsn


class Reader:
    """A person at a browser, and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.wrong: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("dialog", lambda _: self.wrong.append("a dialog of the browser"))

    def _hear(self, kind: str, text: str) -> None:
        # A request that is refused is said on the page.
        if kind == "error" and "Failed to load resource" not in text:
            self.wrong.append(text)

    async def open(self, place: str) -> None:
        await self.page.goto(f"{self.url}/#/{place}")

    async def sign_in(self, token: str = "may-operate") -> None:
        await self.page.goto(f"{self.url}/")
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.heading("Now")).to_be_visible()

    def heading(self, name: str) -> Locator:
        return self.page.get_by_role("heading", level=1, name=name, exact=True)

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("button", name=name)

    async def findings(self) -> list[tuple[str, str]]:
        """What axe finds wrong with the page as it is."""
        world = await self.page.context.new_cdp_session(self.page)
        # In a world of its own: the policy of the page lets no script of others run in its own.
        tree = await world.send("Page.getFrameTree")
        frame = tree["frameTree"]["frame"]["id"]
        context = (await world.send("Page.createIsolatedWorld", {"frameId": frame}))["executionContextId"]
        await world.send("Runtime.evaluate", {"expression": AXE.read_text(), "contextId": context})
        found = await world.send(
            "Runtime.evaluate",
            {
                "expression": "axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))",
                "contextId": context,
                "awaitPromise": True,
                "returnByValue": True,
            },
        )
        await world.detach()
        result: list[tuple[str, str]] = found["result"]["value"]
        return result


@pytest.fixture
async def visit(browser: Browser, board: tuple[Gateway, str]) -> AsyncIterator[Any]:
    """Make readers of the board, each with a browser profile of their own."""
    contexts = []
    readers: list[Reader] = []

    async def come(**options: Any) -> Reader:
        context = await browser.new_context(**options)
        contexts.append(context)
        readers.append(Reader(await context.new_page(), board[0].url))
        return readers[-1]

    yield come
    for context in contexts:
        await context.close()
    assert [reader.wrong for reader in readers] == [[] for _ in readers]


@pytest.fixture
async def reader(visit: Any) -> Reader:
    """A person who is signed in and may do everything."""
    reader: Reader = await visit()
    await reader.sign_in()
    return reader


async def newest(gateway: Gateway, **filter: str) -> str:
    """Id of the newest task that fits."""
    found = await gateway.http.get("/api/tasks", params={**filter, "limit": 1})
    [task] = found.json()["tasks"]
    return str(task["id"])


# Signing in


async def test_a_person_signs_in_and_out(visit: Any) -> None:
    reader = await visit()
    await reader.page.goto(reader.url)
    await reader.page.get_by_label("Token").fill("wrong")
    await reader.button("Sign in").click()
    await expect(reader.page.get_by_role("alert")).to_contain_text("This token is not known")
    assert await reader.findings() == []
    await reader.sign_in()
    [cookie] = await reader.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    await reader.page.reload()
    await expect(reader.heading("Now")).to_be_visible()
    await reader.button("Sign out").click()
    await expect(reader.page.get_by_label("Token")).to_be_visible()
    assert await reader.page.context.cookies() == []


async def test_a_code_in_the_address_signs_in_and_leaves_it(visit: Any, board: tuple[Gateway, str]) -> None:
    code = (await board[0].http.post("/api/session/codes")).json()["code"]
    reader = await visit()
    await reader.page.goto(f"{reader.url}/#sign-in={code}")
    await expect(reader.heading("Now")).to_be_visible()
    assert code not in reader.page.url


async def test_organism_ui_opens_it_signed_in(visit: Any, board: tuple[Gateway, str], tmp_path: Path) -> None:
    address = GatewayAddress(board[0].url, "may-operate")
    page = await asyncio.to_thread(sign_in_page, address, Settings(home=tmp_path))
    assert page.startswith("file:"), "other users read the arguments of a browser"
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "may-operate" not in file.read_text()
    reader = await visit()
    await reader.page.goto(page)
    await expect(reader.heading("Now")).to_be_visible()
    again = await visit()
    await again.page.goto(page)
    await expect(again.page.get_by_role("alert")).to_contain_text("used already")


async def test_a_session_that_ends_leads_back_to_the_sign_in(reader: Reader) -> None:
    await reader.page.context.clear_cookies()
    # Not by a link: the page asks from time to time, and may have found out by itself.
    await reader.open("audit")
    await expect(reader.page.get_by_label("Token")).to_be_visible()


# Every page


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"color_scheme": "light", "viewport": {"width": 375, "height": 720}},
    ],
    ids=["light", "dark", "phone"],
)
async def test_every_page_is_accessible_and_fits(
    visit: Any, board: tuple[Gateway, str], options: Any
) -> None:
    reader = await visit(**options)
    await reader.sign_in()
    failed = await newest(board[0], status="failed", type="caption")
    waiting = await newest(board[0], status="waiting", type="refund")
    for place, title in {**PAGES, f"tasks/{failed}": None, f"tasks/{waiting}": None, "nowhere": None}.items():
        await reader.open(place)
        await expect(reader.page.get_by_role("main")).not_to_have_text("")
        if title:
            await expect(reader.heading(title)).to_be_visible()
        await expect(reader.page.locator(".loading")).to_have_count(0)
        assert await reader.findings() == [], place
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await reader.page.evaluate(wide) <= 0, f"{place} is wider than the window"


async def test_who_may_only_look_is_offered_nothing_else(visit: Any, board: tuple[Gateway, str]) -> None:
    reader = await visit()
    await reader.sign_in("may-read")
    failed = await newest(board[0], status="failed", type="caption")
    waiting = await newest(board[0], status="waiting", type="refund")
    for place, shown in {
        "tasks?status=queued": "caption",
        "failures": "caption",
        "types": "caption",
        f"tasks/{failed}": "caption",
        f"tasks/{waiting}": "refund",
    }.items():
        await reader.open(place)
        await expect(reader.page.locator(".loading")).to_have_count(0)
        await expect(reader.page.get_by_role("main")).to_contain_text(shown)
        offered = re.compile("Cancel|Retry|Redrive|Pause|Policy|Send|links|limit|Change|Remove|Open")
        await expect(reader.button(offered)).to_have_count(0)


async def test_pages_are_reached_by_keys(reader: Reader) -> None:
    await reader.page.keyboard.press("g")
    await reader.page.keyboard.press("f")
    await expect(reader.heading("Failures")).to_be_focused()
    await reader.page.keyboard.press("?")
    await expect(reader.page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert await reader.findings() == []
    await reader.page.keyboard.press("Escape")
    await expect(reader.page.get_by_role("dialog")).to_have_count(0)
    await reader.page.keyboard.press("/")
    await expect(reader.heading("Tasks")).to_be_visible()


async def test_hostile_text_is_text(visit: Any, board: tuple[Gateway, str]) -> None:
    gateway, dsn = board
    await fill(
        dsn,
        "INSERT INTO tasks (type, domain, description, status, finished_at, error, log, traceparent, "
        "organ_id, params, created_at) VALUES ($1, $1, $1, 'failed', now(), $1 || repeat('x', 1000000), $1, "
        "$1, $1, jsonb_build_object($1::text, $1 || repeat('<b>', 300000), 'u', E'\\\\u0000'), '-infinity')",
        HOSTILE,
    )
    await gateway.http.post("/api/pauses", json={"kind": "type", "name": HOSTILE, "reason": HOSTILE})
    await gateway.http.post("/api/limits", json={"name": HOSTILE[:100], "kind": "running", "amount": 1})
    await fill(
        dsn,
        "INSERT INTO closures (kind, name, key, until, reason) "
        "VALUES ('type', 't', $1, now() + '1 hour', $1)",
        HOSTILE,
    )
    await fill(
        dsn,
        "WITH bad AS (SELECT id FROM tasks WHERE type = $1), saved AS ("
        "INSERT INTO task_checkpoints (task_id, claim, step, note) SELECT id, 0, 1, $1 FROM bad) "
        "INSERT INTO task_attempts (task_id, claim, attempt, cause, lane, error, ended_at, log, "
        "handler_version) SELECT id, 0, 1, $1, $1, $1, now(), $1, $1 FROM bad",
        HOSTILE,
    )
    listed = await gateway.http.get("/api/tasks", params={"type": HOSTILE})
    [task] = listed.json()["tasks"]
    reader = await visit()
    await reader.sign_in()
    for place in (*PAGES, f"tasks/{task['id']}", "tasks?status=failed"):
        await reader.open(place)
        await expect(reader.page.locator(".loading")).to_have_count(0)
        await expect(reader.page.get_by_role("main")).to_contain_text(
            "onerror" if place != "system" else "Lanes"
        )
        for made in ("img[src='x']", "main script", "main b"):
            await expect(reader.page.locator(made)).to_have_count(0)
        shown = await reader.page.get_by_role("main").inner_text()
        assert not re.search("[\u202e\u2066]", shown), "characters that turn the others around"
        assert len(shown) < 200_000
    await expect(reader.page).not_to_have_title("owned")
    await gateway.http.post("/api/pauses/resume", json={"kind": "type", "name": HOSTILE})
    await gateway.http.post("/api/limits/remove", json={"name": HOSTILE[:100]})


# Now


async def test_now_says_what_is_wrong_and_leads_there(reader: Reader) -> None:
    verdict = reader.page.get_by_role("region", name=re.compile("need"))
    await expect(verdict).to_contain_text("dead letters in the last hour, most of type caption")
    await verdict.get_by_role("link", name=re.compile("dead letters")).click()
    await expect(reader.heading("Failures")).to_be_visible()
    await expect(reader.page.get_by_label("Type")).to_have_value("caption")


async def test_now_counts_by_type_and_by_domain(reader: Reader) -> None:
    work = reader.page.get_by_role("region", name="Work")
    await expect(work.get_by_role("row", name=re.compile(r"^caption 12\d"))).to_be_visible()
    await reader.button("By domain").click()
    await expect(work.get_by_role("row", name=re.compile("^photos"))).to_be_visible()


async def test_a_clock_that_is_wrong_changes_no_age(visit: Any) -> None:
    reader = await visit()
    await reader.page.add_init_script("const real = Date.now; Date.now = () => real() - 3600 * 1000;")
    await reader.sign_in()
    # A look that took long on a busy machine is shared for up to half a minute.
    updated = re.compile(r"^updated (just now|[\d.]+\ss ago)$")
    await expect(reader.page.get_by_text(updated)).to_be_visible()


async def test_an_empty_queue_says_what_to_do_first(browser: Browser, database: str) -> None:
    async with running(database, organism=ServingOrganism()) as gateway:
        context = await browser.new_context()
        reader = Reader(await context.new_page(), gateway.url)
        await reader.open("")
        await expect(reader.page.get_by_role("main")).to_contain_text("All is well")
        await expect(reader.page.get_by_role("main")).to_contain_text("organism submit echo")
        for place, said in (
            ("tasks", "No tasks yet"),
            ("failures", "No dead letters"),
            ("audit", "Nothing is recorded"),
        ):
            await reader.open(place)
            await expect(reader.page.get_by_text(said)).to_be_visible()
            assert await reader.findings() == []
        await expect(reader.button("Sign out")).to_have_count(0)  # there are no tokens
        await context.close()
        assert reader.wrong == []


async def test_parts_that_are_down_look_right(browser: Browser) -> None:
    organism = ServingOrganism()
    organism.away = True
    async with running("postgresql://127.0.0.1:1/nothing", organism=organism) as gateway:
        context = await browser.new_context()
        reader = Reader(await context.new_page(), gateway.url)
        await reader.open("")
        await expect(reader.page.get_by_role("main")).to_contain_text("Postgres does not answer")
        for place in ("tasks", "failures", "types", "system", "audit"):
            await reader.open(place)
            await expect(reader.page.get_by_role("alert").first).to_be_visible()
            assert await reader.findings() == [], place
        await context.close()
        assert reader.wrong == []


# Tasks


async def test_filters_live_in_the_address(reader: Reader) -> None:
    await reader.open("tasks")
    await reader.button("dead letter").click()
    await expect(reader.page).to_have_url(re.compile("status=failed"))
    await reader.page.get_by_label("Type").fill("embed")
    await reader.page.keyboard.press("Enter")
    await expect(reader.page).to_have_url(re.compile("type=embed"))
    rows = reader.page.get_by_role("group", name="Tasks", exact=True).locator("tbody tr")
    await expect(rows).to_have_count(3)
    await reader.page.reload()
    await expect(rows).to_have_count(3)
    await expect(reader.page.get_by_label("Type")).to_have_value("embed")
    await reader.page.get_by_label("Type").fill("none of these")
    await reader.page.keyboard.press("Enter")
    await expect(reader.page.get_by_text("No task fits")).to_be_visible()
    await reader.page.get_by_role("link", name="clear them all").click()
    await expect(rows).to_have_count(50)


async def test_pages_go_back_and_forth(reader: Reader) -> None:
    await reader.open("tasks?type=caption")
    first = reader.page.locator("tbody tr").first
    shown = await first.inner_text()
    await reader.page.get_by_role("link", name="Older").click()
    await expect(reader.page).to_have_url(re.compile("cursor="))
    await expect(first).not_to_have_text(shown)
    await reader.button("Newer").click()
    await expect(reader.page).not_to_have_url(re.compile("cursor="))


async def test_columns_are_chosen_and_kept(reader: Reader) -> None:
    await reader.open("tasks")
    await reader.button("Columns").click()
    await reader.page.get_by_label("Attempts").check()
    assert await reader.findings() == []
    await reader.button("Close").click()
    await reader.page.reload()
    await expect(reader.page.get_by_role("columnheader", name="Attempts")).to_be_visible()


async def test_tasks_of_a_filter_are_cancelled_after_a_dry_run(
    reader: Reader, board: tuple[Gateway, str]
) -> None:
    type = f"bulk-{uuid4().hex[:8]}"
    await board[0].submit(*[{"type": type}] * 7)
    await reader.open(f"tasks?type={type}")
    await reader.button("Cancel these…").click()
    dialog = reader.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("7 unfinished tasks fit")
    assert await reader.findings() == []
    await dialog.get_by_role("button", name="Cancel 7 tasks").click()
    await expect(reader.page.get_by_text("7 tasks are cancelled")).to_be_visible()

    async def statuses() -> set[str]:
        tasks = (await board[0].http.get(f"/api/tasks?type={type}")).json()["tasks"]
        return {task["status"] for task in tasks}

    assert await statuses() == {"cancelled"}
    await reader.button("Retry these…").click()
    await expect(dialog).to_contain_text("7 tasks fit that failed or were cancelled")
    assert await reader.findings() == []
    await dialog.get_by_role("button", name="Leave them").click()
    await reader.button("Undo").click()
    await expect(reader.page.get_by_role("table").get_by_text("cancelled")).to_have_count(0)
    assert await statuses() == {"queued"}


# A task


async def test_a_task_is_cancelled_and_taken_back(reader: Reader, board: tuple[Gateway, str]) -> None:
    params = {"image": {"size": [640, 480], "name": "dog.jpg"}}
    [task] = await board[0].submit({"type": "caption", "params": params, "priority": -5})
    await reader.open(f"tasks/{task}")
    main = reader.page.get_by_role("main")
    await expect(main).to_contain_text("It is due and in line")
    await expect(main).to_contain_text("dog.jpg")
    await reader.button("Cancel").click()
    await expect(main).to_contain_text("It was cancelled")
    await reader.button("Undo").click()
    await expect(main).to_contain_text("It is due and in line")


async def test_a_task_is_followed_until_it_ends(reader: Reader, board: tuple[Gateway, str]) -> None:
    gateway, dsn = board
    [task] = await gateway.submit({"type": "caption", "run_immediately": False})
    await reader.open(f"tasks/{task}")
    await reader.button("Run").click()
    await expect(reader.page.get_by_role("main")).to_contain_text("queued")
    emit = "INSERT INTO task_chunks (task_id, claim, number, run_begin, chunks) VALUES ($1, 1000, "
    await fill(
        dsn,
        "UPDATE tasks SET status = 'running', claim = 1000, locked_by = 'l', locked_at = now() WHERE id = $1",
        task,
    )
    await fill(dsn, f"""{emit} 2, 0, '["it is ", "a "]')""", task)
    stream = reader.page.get_by_role("region", name="Stream")
    await expect(stream).to_contain_text("it is a")
    await fill(dsn, f"""{emit} 4, 0, '["dog", {{"sure": 0.9}}]')""", task)
    await expect(stream).to_contain_text('it is a dog{"sure": 0.9}')
    await fill(dsn, f"""{emit} 6, 5, '["it is a cat"]')""", task)
    await expect(stream).not_to_contain_text("dog")
    await expect(stream).to_contain_text("it is a cat")
    await fill(
        dsn,
        "UPDATE tasks SET status = 'completed', locked_by = NULL, locked_at = NULL, "
        "finished_at = now(), elapsed_ms = 12, result = '\"a dog\"', "
        "log = E'INFO 12 colours\\nINFO it barks', traceparent = '00-' || repeat('ab', 16) || '-' "
        "|| repeat('cd', 8) || '-01' WHERE id = $1",
        task,
    )
    await fill(
        dsn,
        "INSERT INTO task_attempts (task_id, claim, attempt, cause, ended_at, handler_version, "
        "resumed_step, reached_step, fraction) VALUES ($1, 1, 1, 'lease_lost', now(), 'b5e1', 2, 40, 0.25)",
        task,
    )
    await reader.page.reload()
    await expect(reader.page.get_by_role("region", name="Result")).to_contain_text("a dog")
    timeline = reader.page.get_by_role("region", name="Timeline")
    await expect(timeline).to_contain_text("step 2 to 40 · 25 % done · handler b5e1")
    await expect(reader.page.get_by_role("region", name="Log")).to_contain_text("it barks")
    await expect(reader.page.get_by_role("region", name="Facts")).to_contain_text("ab" * 16)
    await expect(reader.button("Cancel")).to_have_count(0)


async def test_a_task_that_waits_gets_its_event(reader: Reader, board: tuple[Gateway, str]) -> None:
    type = f"refund-{uuid4().hex[:8]}"
    await fill(board[1], WAITING.rstrip().rstrip(";"), type)
    await expect(reader.page.get_by_role("link", name="Waiting", exact=True)).to_be_visible()
    row = reader.page.get_by_role("region", name="Work").get_by_role("row", name=re.compile(f"^{type}"))
    await expect(row.get_by_role("cell")).to_have_text(["0", "0", "0", "0", "1", "0", "–", "–", "–"])
    await row.get_by_role("link", name="1", exact=True).click()
    await expect(reader.button("waiting")).to_have_attribute("aria-pressed", "true")
    await reader.page.get_by_role("table").get_by_role("link", name=type).click()
    main = reader.page.get_by_role("main")
    await expect(main).to_contain_text("It waits for the event approval since")
    await expect(reader.page.get_by_role("region", name="Facts")).to_contain_text("2 h ago")
    await expect(reader.page.get_by_role("region", name="Timeline")).to_contain_text(
        "Fails without its event"
    )
    dialog = reader.page.get_by_role("dialog")

    await reader.button("Make links…").click()
    assert await reader.findings() == []
    await dialog.get_by_label("Choices").fill("yes, not at all")
    await dialog.get_by_role("button", name="Make links").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("choices")
    await dialog.get_by_label("Choices").fill("yes, no")
    await dialog.get_by_role("button", name="Make links").click()
    link = dialog.get_by_label("no", exact=True)
    await expect(link).to_have_value(re.compile(f"^{reader.url}/answers/"))
    assert await reader.findings() == []
    await dialog.get_by_role("button", name="Close").click()

    await reader.button("Send event…").click()
    await dialog.get_by_label("Payload").fill("{yes}")
    await dialog.get_by_role("button", name="Send").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("The payload is not JSON")
    assert await reader.findings() == []
    await dialog.get_by_label("Payload").fill('{"choice": "yes"}')
    await dialog.get_by_role("button", name="Send").click()
    await expect(reader.page.get_by_text("the task continues")).to_be_visible()
    await expect(main.get_by_text("queued", exact=True)).to_be_visible()
    await expect(reader.button("Send event…")).to_have_count(0)


async def test_an_id_that_is_none_is_said(reader: Reader) -> None:
    for wrong in ("00000000-0000-7000-8000-000000000000", "nonsense", "%2e%2e%2f", "<b>"):
        await reader.open(f"tasks/{wrong}")
        await expect(reader.page.get_by_role("alert")).to_be_visible()
        await expect(reader.page.get_by_role("link", name="All tasks")).to_be_visible()


# Failures, types, audit


async def test_a_group_is_redriven_after_a_dry_run(reader: Reader, board: tuple[Gateway, str]) -> None:
    type = f"broken-{uuid4().hex[:8]}"
    await fill(
        board[1],
        "INSERT INTO tasks (type, status, finished_at, error) "
        "SELECT $1, 'failed', now(), 'KeyError: row ' || i FROM generate_series(1, 9) i",
        type,
    )
    await reader.open(f"failures?type={type}")
    group = reader.page.get_by_role("listitem").filter(has_text="KeyError: row ⟨n⟩")
    await expect(group).to_contain_text("9")
    await group.get_by_role("button", name=re.compile("Redrive")).click()
    dialog = reader.page.get_by_role("dialog", name="Redrive dead letters")
    await expect(dialog).to_contain_text("9 dead letters will be queued again")
    assert await reader.findings() == []
    await dialog.get_by_role("button", name="Redrive 9 tasks").click()
    await expect(reader.page.get_by_text("9 tasks are queued again")).to_be_visible()
    await expect(reader.page.get_by_text("No dead letter fits")).to_be_visible()
    await reader.open("audit?action=redrive")
    await expect(reader.page.locator("tbody tr").first).to_contain_text(type)


async def test_a_type_is_paused_with_a_reason_and_resumed(reader: Reader) -> None:
    await reader.open("types")
    row = reader.page.locator("tbody tr").filter(has_text="vectors")
    await row.get_by_role("button", name=re.compile("Pause")).click()
    await reader.page.get_by_label("Reason").fill("the index is rebuilt")
    assert await reader.findings() == []
    await reader.page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    await expect(row).to_contain_text("the index is rebuilt")
    await row.get_by_role("button", name=re.compile("Resume")).click()
    await expect(row.get_by_role("button", name=re.compile("Pause"))).to_be_visible()


async def test_lanes_lead_to_their_run_and_its_tasks(reader: Reader) -> None:
    await reader.open("system")
    lane = reader.page.locator("tbody tr").filter(has_text="otter-0")
    await expect(lane).to_contain_text("caption 24")
    run = "/runs/flow-run/3f6c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e"
    await expect(lane.get_by_role("link", name="in Prefect")).to_have_attribute("href", f"{PREFECT}{run}")
    verification = reader.page.get_by_role("region", name="Last verification")
    run = "/runs/flow-run/7d1c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e"
    found = verification.get_by_role("link", name="Its run in Prefect")
    await expect(found).to_have_attribute("href", f"{PREFECT}{run}")
    await lane.get_by_role("link", name="3f6c1f0e").click()
    await expect(reader.page.get_by_label("Run")).to_have_value("3f6c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e")
    await expect(reader.page.get_by_role("table").locator("tbody tr")).to_have_count(4)


async def test_a_policy_is_set_and_a_wrong_one_is_refused(reader: Reader) -> None:
    await reader.open("types")
    row = reader.page.locator("tbody tr").filter(has_text="vectors")
    await row.get_by_role("button", name=re.compile("Policy")).click()
    dialog = reader.page.get_by_role("dialog")
    await dialog.get_by_label("Attempts").fill("5000")
    await dialog.get_by_role("button", name="Set").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("max_attempts")
    await dialog.get_by_label("Attempts").fill("9")
    await dialog.get_by_role("button", name="Set").click()
    await expect(row).to_contain_text("9")


async def test_a_limit_is_set_changed_taken_back_and_removed(
    reader: Reader, board: tuple[Gateway, str]
) -> None:
    name = f"account-{uuid4().hex[:8]}"

    async def limit() -> dict[str, Any] | None:
        limits = (await board[0].http.get("/api/limits")).json()["limits"]
        return next((one for one in limits if one["name"] == name), None)

    await reader.open("types")
    await reader.button("Set a limit…").click()
    dialog = reader.page.get_by_role("dialog")
    changes = dialog.get_by_role("list", name="What changes")
    await dialog.get_by_label("Name").fill(name)
    await dialog.get_by_label("Amount", exact=True).fill("-1")
    await dialog.get_by_role("button", name="Set").click()
    assert await limit() is None, "the browser refuses it"
    await dialog.get_by_label("Amount", exact=True).fill("3")
    await dialog.get_by_label("Types, between commas").fill("caption, embed")
    await dialog.get_by_label("For each key").check()
    await dialog.get_by_label("Other amounts").fill("acme=10\na=b=0")
    await expect(changes).to_contain_text("There is no limit of this name yet.")
    await expect(changes).to_contain_text("Then: 3 at once for each key, of caption, embed.")
    assert await reader.findings() == []
    await dialog.get_by_role("button", name="Set").click()
    row = reader.page.locator("tbody tr").filter(has_text=name)
    await expect(row).to_contain_text("3 at once")
    assert (await limit() or {})["exceptions"] == {"acme": 10, "a=b": 0}
    await row.get_by_role("button", name=re.compile("Change")).click()
    await dialog.get_by_label("Amount", exact=True).fill("2")
    # Four tasks of the story run, and none of them has a key.
    await expect(changes).to_contain_text("Now: 3 at once for each key, of caption, embed.")
    await expect(changes).to_contain_text("4 tasks run above it. They go on")
    await dialog.get_by_role("button", name="Set").click()
    await expect(row).to_contain_text("2 at once")
    await reader.button("Undo").last.click()
    await expect(row).to_contain_text("3 at once")
    await row.get_by_role("button", name=re.compile("Remove")).click()
    await expect(changes).to_contain_text("2 amounts of single keys go with it: acme, a=b.")
    assert await reader.findings() == []
    await dialog.get_by_role("button", name="Remove").click()
    await expect(row).to_have_count(0)
    await reader.open("audit?action=limit+removed")
    await expect(reader.page.locator("tbody tr").first).to_contain_text(name)
