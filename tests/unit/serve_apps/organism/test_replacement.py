"""What is said and done before replicas are replaced, against a server that plays dashboard and organism."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.release import replacement
from organism_flows.serve_apps.organism.release.replacement import When, carry_out, plan, summary
from organism_flows.serve_apps.organism.release.serve_config import serve_config

pytestmark = pytest.mark.anyio


def wanted(code: str = "1", **organ: Any) -> dict[str, Any]:
    organs = [{"id": "a", "task_types": ["a"], "handler": "x:y", **organ}]
    config = serve_config(parse_config({"organs": organs, "include_builtin": False}))
    config["applications"][0]["args"]["code"] = {"handlers.py": code}
    return config


def tasks(in_flight: int, waiting: int = 0, longest_s: float | None = None, **more: Any) -> dict[str, Any]:
    """What `/running` says of organ a on one replica."""
    replica = {
        "replica": "r",
        "draining": False,
        "organs": {
            "a": {
                "in_flight": in_flight,
                "waiting": waiting,
                "suspects": 0,
                "lingering": 0,
                "longest_s": longest_s,
                "drain_s": 30.0,
            }
        },
    }
    return {"replicas": [{**replica, **more}]}


class Played:
    """A dashboard, and the routes of an organism.

    Attributes:
        running: Answers of `/running` in turn, the last for good; a number is a status.
        limit_status: Of the answer to `/drain-limit`.
        asked: Requests, in order.
    """

    def __init__(self) -> None:
        self.app: dict[str, Any] | None = wanted()["applications"][0]
        self.running: list[dict[str, Any] | int] = [tasks(0)]
        self.limit_status = 200
        self.asked: list[str] = []
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                played.asked.append(f"GET {self.path}")
                match self.path:
                    case "/api/serve/applications/":
                        self.reply(played.details())
                    case "/organism/running":
                        ahead = len(played.running) > 1
                        self.reply(played.running.pop(0) if ahead else played.running[0])
                    case _:
                        self.reply({})

            def do_PUT(self) -> None:
                played.asked.append("PUT")
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                played.app = body["applications"][0]
                self.reply({})

            def do_POST(self) -> None:
                played.asked.append(f"POST {self.path}")
                self.reply(played.limit_status if played.limit_status != 200 else {})

            def reply(self, answer: dict[str, Any] | int) -> None:
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                if not isinstance(answer, int):
                    self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.routes_port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def details(self) -> dict[str, Any]:
        app = self.app and {
            "status": "RUNNING",
            "deployed_app_config": self.app,
            "deployments": {
                "OrganismManager": {
                    "status": "HEALTHY",
                    "target_num_replicas": 1,
                    "replicas": [{"state": "RUNNING"}],
                }
            },
        }
        return {
            "http_options": {"host": "127.0.0.1", "port": self.routes_port},
            "applications": {"organism": app} if app else {},
        }


@pytest.fixture
def played() -> Iterator[Played]:
    played = Played()
    thread = Thread(target=played.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield played
    played.server.shutdown()
    thread.join()
    played.server.server_close()


class Deployed:
    """What was said and done by one deployment."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: list[str] = []
        self.summary = ""

    async def __call__(self, played: Played, config: dict[str, Any], when: When = "drain") -> None:
        found = await plan(played.url, None, config)
        done = await carry_out(
            found,
            played.url,
            None,
            5,
            when=when,
            on_note=self.notes.append,
            on_progress=self.progress.append,
        )
        self.summary = summary(done)


async def test_nothing_to_change_is_said_and_nothing_asked(played: Played) -> None:
    deployed = Deployed()
    await deployed(played, wanted())
    assert (deployed.notes, deployed.summary) == ([], "nothing to change")
    assert "GET /organism/running" not in played.asked


async def test_the_first_deployment_costs_nothing(played: Played) -> None:
    played.app = None
    deployed = Deployed()
    await deployed(played, wanted(), "idle")
    assert (deployed.notes, deployed.summary) == ([], "the organism was started: nothing is deployed")


async def test_what_is_applied_in_place_interrupts_nothing(played: Played) -> None:
    played.running = [tasks(5)]
    deployed = Deployed()
    await deployed(played, wanted(timeout_s=9), "now")
    assert deployed.notes == [
        "organism: the configuration is applied in place, nothing is interrupted: timeout_s of organ a"
    ]
    assert deployed.summary == "the organism was changed in place: timeout_s of organ a"
    assert not [line for line in played.asked if "running" in line or "POST" in line]


@pytest.mark.parametrize(
    ("running", "when", "cost"),
    [
        (tasks(0), "drain", "nothing runs there"),
        (
            tasks(2, longest_s=312.3),
            "drain",
            "2 tasks run there, the longest for 312 s; they have 30 s to end and are then handed back "
            "uncharged and run again from the start (drain_s)",
        ),
        (
            tasks(1, 4, longest_s=1),
            "now",
            "1 task runs there, the longest for 1 s, and 4 wait there; they are handed back at once, "
            "uncharged, and run again from the start (--now)",
        ),
        (tasks(0, 4), "drain", "4 wait there; they are handed back at once, uncharged"),
        (tasks(2, longest_s=3, draining=True), "drain", "nothing runs there"),
        (404, "drain", "what runs there is not known: it is of an older version, which does not say"),
    ],
)
async def test_why_and_what_it_costs_is_said_before(
    played: Played, running: Any, when: When, cost: str
) -> None:
    played.running = [running]
    deployed = Deployed()
    await deployed(played, wanted("2"), when)
    assert deployed.notes[0] == f"organism: replicas are replaced: handlers.py changed; {cost}"
    assert deployed.summary == "the organism was replaced: handlers.py changed"


async def test_organs_with_other_times_are_told_as_a_range(played: Played) -> None:
    running = tasks(1, longest_s=1)
    organs = running["replicas"][0]["organs"]
    played.app = serve_config(
        parse_config(
            {
                "include_builtin": False,
                "organs": [{"id": i, "task_types": [i], "handler": "x:y"} for i in ("a", "b")],
            }
        )
    )["applications"][0]
    organs["b"] = {**organs["a"], "drain_s": 600.0}
    played.running = [running]
    deployed = Deployed()
    await deployed(played, wanted("2"))
    assert "2 tasks run there, the longest for 1 s; they have 30 to 600 s to end" in deployed.notes[0]


async def test_an_organism_that_is_away_is_replaced_and_it_is_said(played: Played) -> None:
    played.routes_port = 9
    deployed = Deployed()
    await deployed(played, wanted("2"))
    assert (
        "what runs there is not known: http://127.0.0.1:9/organism/running does not answer"
        in (deployed.notes[0])
    )
    assert "PUT" in played.asked


async def test_when_idle_waits_with_progress(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacement, "POLL_S", 0.01)
    busy = tasks(2, longest_s=3)
    played.running = [busy, busy, 500, tasks(1, 1, longest_s=4), tasks(0)]
    deployed = Deployed()
    await deployed(played, wanted("2"), "idle")
    assert deployed.notes == [
        "organism: replicas are replaced: handlers.py changed; 2 tasks run there, the longest for 3 s; "
        "it is done when they have ended (--when-idle)"
    ]
    assert deployed.progress[:2] == [
        "waiting until nothing runs there: 2 tasks run there, the longest for 3 s",
        "waiting until nothing runs there: 1 task runs there, the longest for 4 s, and 1 waits there",
    ]
    asked = [line for line in played.asked if line == "PUT" or "running" in line]
    assert asked == ["GET /organism/running"] * 5 + ["PUT"]


async def test_waiting_can_be_given_up(played: Played) -> None:
    played.running = [tasks(1)]
    waiting = asyncio.create_task(Deployed()(played, wanted("2"), "idle"))
    while played.asked.count("GET /organism/running") < 2:
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert "PUT" not in played.asked


@pytest.mark.parametrize("running", [404, 500])
async def test_when_idle_does_not_wait_for_whom_it_cannot_ask(
    played: Played, monkeypatch: pytest.MonkeyPatch, running: int
) -> None:
    monkeypatch.setattr(replacement, "POLL_S", 0.01)
    monkeypatch.setattr(replacement, "PATIENCE_S", 0.05)
    played.running = [running]
    with pytest.raises(OrganismUnavailable, match="--when-idle needs to know what runs"):
        await Deployed()(played, wanted("2"), "idle")
    assert "PUT" not in played.asked


async def test_now_limits_the_time_before_it_deploys(played: Played) -> None:
    played.running = [tasks(1, longest_s=3)]
    deployed = Deployed()
    await deployed(played, wanted("2"), "now")
    asked = [line for line in played.asked if line == "PUT" or "POST" in line]
    assert asked == ["POST /organism/drain-limit?within_s=0", "PUT"]


async def test_now_is_no_obstacle_where_it_is_not_known(played: Played) -> None:
    played.limit_status = 404
    deployed = Deployed()
    await deployed(played, wanted("2"), "now")
    assert deployed.notes[1].startswith(
        "--now has no effect, tasks have their time to end: Client error '404"
    )
    assert "PUT" in played.asked
