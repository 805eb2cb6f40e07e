"""The pictures of board.md, bad-release.md and top.md in docs/how-to: a gateway on a queue made for them."""

from __future__ import annotations

import asyncio
import math
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn
from textual.widgets import DataTable

from docs.chromium import Page, find_chromium, open_page
from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.organism_reports import HealthReport, StatusReport
from organism_flows.blocks.queue import migrate
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.cli.top.app import TopApp
from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.serve_apps.gateway.__main__ import bound, server_config
from organism_flows.serve_apps.gateway.app import create_app
from organism_flows.serve_apps.gateway.board.throughput import Sample
from organism_flows.serve_apps.gateway.dependencies import AppState

WIDTH = 1380
HEIGHTS = {"now": 1150, "failures": 560, "task": 1000}
TERMINAL = (132, 34)
LANES = 4
STORY = """
INSERT INTO tasks (type, domain, status, created_at, run_after, finished_at, elapsed_ms, organ_id, attempts)
    SELECT (ARRAY['caption', 'embed', 'thumbnail', 'mail.digest'])[1 + i % 4],
           (ARRAY['photos', 'archive', 'press', NULL])[1 + (i / 3) % 4], 'completed',
           now() - i * interval '700 ms' - (1 + i % 17 * 0.2) * interval '1 s', now(),
           now() - i * interval '700 ms', 20 + i * 37 % 900, 'captions', 1
    FROM generate_series(1, 4000) i;
INSERT INTO tasks (type, domain, created_at, run_after)
    SELECT (ARRAY['caption', 'embed', 'thumbnail'])[1 + i % 3], 'photos', now() - i * interval '50 ms',
           now() - i * interval '50 ms'
    FROM generate_series(1, 1284) i;
INSERT INTO tasks (type, run_after)
    SELECT 'mail.digest', now() + (i - 2) * interval '1 min' FROM generate_series(1, 36) i;
INSERT INTO tasks (type, domain, status, run_after, attempts, error)
    SELECT 'caption', 'photos', 'retry', now() + i * interval '9 s', 2, 'TimeoutError: no answer within 30 s'
    FROM generate_series(5, 21) i;
INSERT INTO tasks (type, domain, status, created_at, finished_at, attempts, error, organ_id, params)
    SELECT 'caption', 'photos', 'failed', now() - interval '50 min', now() - i * i % 1900 * interval '1 s', 5,
           'ValueError: cannot decode /data/in/2026/img-' || i || '.jpg: bad marker at byte ' || i * 37
           || E'\\n  File "/srv/models/captions.py", line 88, in caption'
           || E'\\n    image = decode(task.params["image"])',
           'captions',
           jsonb_build_object('image', 's3://photos/2026/img-' || i || '.jpg', 'languages', ARRAY['de', 'en'],
                              'crop', jsonb_build_object('x', 40, 'y', 12, 'size', ARRAY[640, 480]))
    FROM generate_series(1, 208) i;
INSERT INTO tasks (type, domain, status, finished_at, attempts, error)
    SELECT 'embed', 'archive', 'failed', now() - i * interval '7 min', 5,
           'ConnectionError: http://vectors-' || i || '.internal/upsert refused after 3 tries'
    FROM generate_series(9, 39) i;
INSERT INTO tasks (type, domain, status, finished_at, attempts, error)
    SELECT 'thumbnail', 'press', 'failed', now() - i * interval '2 hours', 5, 'MemoryError'
    FROM generate_series(1, 4) i;
INSERT INTO lanes (id, run, number, host, pid, started_at, lease_until, settled, figures)
    SELECT 'tidy-otter-' || i, '3f6c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e', i, 'worker-' || i, 4000 + i,
           now() - interval '3 hours', now() + interval '1 hour', 18000 + i * 311,
           jsonb_build_object('windows', jsonb_build_object('caption', 24 + i, 'embed', 96 - 8 * i))
    FROM generate_series(0, 3) i;
INSERT INTO tasks (type, domain, status, locked_by, locked_at, claim, attempts)
    SELECT (ARRAY['caption', 'embed'])[1 + i % 2], 'photos', 'running', 'tidy-otter-' || i % 4, now(), i, 1
    FROM generate_series(1, 88) i;
INSERT INTO pauses (kind, name, reason) VALUES ('type', 'mail.digest', 'the relay is being moved, ask Ines');
INSERT INTO task_types (type, max_attempts, timeout_s) VALUES ('caption', 5, 30);
INSERT INTO task_audit (action, actor, details, tasks) VALUES
    ('pause', 'ines', '{"kind": "type", "name": "mail.digest"}', 0),
    ('verify', 'ines@ops-1', '{"status": "ok", "line": "all 41 checks are ok",
                               "run": "7d1c1f0e-5b1a-4c9e-9d7e-8a1f2b3c4d5e"}', 0);
INSERT INTO limits (name, kind, types, by_key, amount, period_s)
    VALUES ('vectors', 'rate', '{embed}', false, 600, 60),
           ('customers', 'running', '{caption,thumbnail}', true, 50, NULL);
INSERT INTO task_attempts (task_id, claim, attempt, lane, cause, error, started_at, ended_at, handler_version)
    SELECT id, n, n, 'tidy-otter-' || n % 4, CASE n WHEN 1 THEN 'timed_out' ELSE 'failed' END,
           CASE n WHEN 1 THEN 'timed out after 30 s' ELSE split_part(error, E'\\n', 1) END,
           finished_at - (5 - n) * interval '4 min' - (CASE n WHEN 1 THEN 30 ELSE n END) * interval '1 s',
           finished_at - (5 - n) * interval '4 min', CASE WHEN n < 2 THEN '2026-11-29' ELSE '2026-11-30' END
    FROM (
        SELECT * FROM tasks WHERE type = 'caption' AND status = 'failed' ORDER BY finished_at DESC LIMIT 1
    ) task
    CROSS JOIN generate_series(1, 5) n;
"""


class Organism:
    """What the gateway asks of an organism."""

    version = "2026-11-30"
    """Of the handler that a release has broken."""

    async def health(self) -> HealthReport:
        return HealthReport(status="healthy")

    async def status(self) -> StatusReport:
        organs: dict[str, dict[str, Any]] = {
            name: {
                "kind": "actuator",
                "handler": handler,
                "version": self.version if name == "captions" else "2026-11-21",
                "task_types": types,
                "in_flight": in_flight,
                "waiting": waiting,
                "completed": 18_234,
                "failed": 41,
            }
            for name, types, handler, in_flight, waiting in (
                ("captions", ["caption"], "models.captions:Captioner", 16, 28),
                ("mail", ["mail.digest"], "notify.mail:send_digest", 0, 0),
                ("thumbs", ["thumbnail"], "media.thumbs:thumbnail", 0, 0),
                ("vectors", ["embed"], "models.vectors:embed", 32, 12),
            )
        }
        report = {
            "status": "healthy",
            "replica": "r1",
            "organs": organs,
            "task_types": [name for organ in organs.values() for name in organ["task_types"]],
            "config": {"default_organ": None},
        }
        return StatusReport.of(report)

    async def running(self) -> dict[str, Any]:
        return {"replicas": []}

    async def handle(self, task: dict[str, Any]) -> dict[str, Any]:
        return {}


def remember_an_hour(parts: AppState) -> None:
    """Have the gateway know what the lanes did in the last hour."""
    now = time.monotonic()
    recorder = parts.overviews.throughput
    recorder.forget()
    completed, failed = 60_000.0, 0.0
    for step in range(366):
        per_step = 270 + 90 * math.sin(step / 23) + 40 * math.sin(step / 3.1)
        completed += per_step * (0.55 if step > 190 else 1)
        failed += 208 / 175 if step > 190 else 0
        settled = {f"tidy-otter-{lane}": int(completed / LANES) + lane for lane in range(LANES)}
        recorder.add(Sample(now - (365 - step) * 10, completed, failed, 0, settled))


async def take_board(images: Path) -> None:
    """Write the pictures of the board and ``top.png`` into ``images``."""
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("error: no chromium on the PATH → install it, for example `apt install chromium`")
    os.environ["PREFECT_UI_URL"] = "http://127.0.0.1:4200"
    with tempfile.TemporaryDirectory(prefix="organism-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        await asyncio.to_thread(home.chmod, 0o711)
        await asyncio.to_thread((home / "logs").mkdir)
        postgres = EmbeddedPostgres(home, "pictures")
        child = await postgres.start(dict(os.environ))
        try:
            await postgres.wait_ready(child)
            await migrate(postgres.dsn())
            connection = await asyncpg.connect(postgres.dsn())
            await connection.execute(STORY)
            newest = "SELECT task_id FROM task_attempts LIMIT 1"
            task = await connection.fetchval(newest)
            await connection.close()
            await _pictures(chromium, postgres.dsn(), task, images)
        finally:
            child.process.terminate()
            child.process.wait(20)


async def _pictures(chromium: str, dsn: str, task: Any, images: Path) -> None:
    settings = Settings(dsn=dsn, gateway_open=True)
    organism = Organism()
    app = create_app(settings, organism=organism)
    listener = bound("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, settings))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with open_page(chromium) as page:
            await page.go(url)
            await page.until("!!document.querySelector('main h1')")
            remember_an_hour(app.state.parts)
            app.state.parts.overviews.forget()
            for name, place in (
                ("now", "/"),
                ("failures", "/failures"),
                ("task", f"/tasks/{task}"),
            ):
                await _take(page, f"{url}/#{place}", images / f"board-{name}.png", HEIGHTS[name])
            await _take_story(page, url, organism, images)
            await _take_terminal(page, url, images / "top.png")
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 20)


async def _take(page: Page, url: str, path: Path, height: int) -> None:
    await page.resize(WIDTH, height)
    await page.go("about:blank")
    await page.go(url)
    await page.until("!!document.querySelector('main .card') && !document.querySelector('.loading')")
    await page.picture(path)
    print(path)


PAUSED = "document.querySelector('main').innerText.includes('Ines rolls back')"


async def _take_story(page: Page, url: str, organism: Organism, images: Path) -> None:
    """Do what docs/how-to/bad-release.md says, and take a picture of each step that has none yet."""
    await _take(page, f"{url}/#/system", images / "board-lanes.png", 980)
    await _take(page, f"{url}/#/types", images / "board-types.png", 760)
    await _press(page, "main button", "Pause… caption")
    await _enter(page, "dialog input", "release 2026-11-30 cannot decode, Ines rolls back")
    await page.picture(images / "board-pause.png")
    await _press(page, "dialog button", "Pause")
    await page.until(f"!document.querySelector('dialog') && {PAUSED}")
    organism.version = "2026-11-30.1"
    await page.resize(WIDTH, 620)
    await page.go("about:blank")
    await page.go(f"{url}/#/failures?type=caption")
    await page.until("!!document.querySelector('main .card') && !document.querySelector('.loading')")
    await _press(page, "main button", "Redrive…")
    await page.until("document.querySelector('dialog button.primary')?.innerText.includes('Redrive')")
    await page.picture(images / "board-redrive.png")
    await _press(page, "dialog button", "Redrive 2")
    await page.until("!document.querySelector('dialog')")
    await page.go(f"{url}/#/types")
    await _press(page, "main button", "Resume caption")
    await page.until(f"!{PAUSED}")
    await _take(page, f"{url}/#/audit", images / "board-audit.png", 460)


async def _press(page: Page, selector: str, text: str) -> None:
    found = f"[...document.querySelectorAll({selector!r})].find(one => one.textContent.startsWith({text!r}))"
    await page.until(f"!!{found}")
    await page.evaluate(f"{found}.click()")


async def _enter(page: Page, selector: str, text: str) -> None:
    await page.until(f"!!document.querySelector({selector!r})")
    await page.evaluate(
        f"(field => {{ field.focus(); field.value = {text!r}; "
        f"field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})"
        f"(document.querySelector({selector!r}))"
    )


async def _take_terminal(page: Page, url: str, path: Path) -> None:
    async with Client(url) as client, TopApp(client, url).run_test(size=TERMINAL) as pilot:
        while not pilot.app.screen.query_one("#types-table", DataTable).row_count:
            await pilot.pause(0.1)
        await pilot.pause()
        drawn = pilot.app.export_screenshot(title="organism top")
    # The drawing names a font on another host.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert found is not None
    await page.resize(*(math.ceil(float(side)) for side in found.groups()))
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }}</style>{drawn}')
        file.flush()
        await page.go(Path(file.name).as_uri())
        await page.until("!!document.querySelector('svg text')")
        await page.picture(path)
    print(path)
