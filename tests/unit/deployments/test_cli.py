"""The `organism` command: help, usage errors, and how failures become lines and exit codes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from cyclopts import App

from organism_flows.blocks.errors import StackError
from organism_flows.deployments.cli import main as cli
from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, ProgressLines, show
from organism_flows.deployments.stack.progress import Event

ORGANISM = [sys.executable, "-m", "organism_flows.deployments.cli.main"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("ORGANISM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A command that does what the test puts into ``then``."""
    box = SimpleNamespace(then=lambda: 0)

    async def fake(*, as_json: AsJson = False) -> int | None:
        await asyncio.sleep(0)
        code: int | None = box.then()
        return code

    module = ModuleType("organism_flows.deployments.cli.commands.fake")
    vars(module)["fake"] = fake
    monkeypatch.setitem(sys.modules, "organism_flows.deployments.cli.commands.fake", module)
    monkeypatch.setitem(cli.COMMANDS, "fake", "fake:fake")
    return box


def raising(error: BaseException) -> object:
    def then() -> None:
        raise error

    return then


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from organism_flows.deployments.cli.main import run; run(['--help']); "
        "heavy = ('prefect', 'ray', 'sqlalchemy', 'alembic', 'asyncpg', 'httpx', 'textual'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    for name in cli.COMMANDS:
        assert name in shown
    assert "Start the stack on this machine" in shown


HEAVY = ("prefect", "ray", "sqlalchemy", "alembic", "fastapi", "textual", "pyarrow")


@pytest.mark.parametrize(
    ("words", "module"),
    [("tasks list", "tasks.control"), ("submit demo.echo", "tasks.submit"), ("status", "stack.status")],
)
def test_a_light_command_imports_its_own_module_and_nothing_heavy(
    words: str, module: str, home: Path
) -> None:
    code = f"""
import sys
from organism_flows.deployments.cli.main import COMMANDS, COMMANDS_PACKAGE, run
run({words.split()})
places = {{place.partition(":")[0] for place in COMMANDS.values()}}
print([name for name in {HEAVY} if name in sys.modules])
print([place for place in places if COMMANDS_PACKAGE + "." + place in sys.modules])
models = sys.modules.get("organism_flows.blocks.queue.models.limits")
print(bool(models and models.Limit.__pydantic_complete__))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["[]", f"['{module}']", "False"]


def every_command(app: App, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of each command, those of groups (`tasks list`) included."""
    names = [name for name in app if not name.startswith("-")]
    for name in names:
        yield from every_command(app[name], *path, name)
    if not names:
        yield path


@pytest.mark.parametrize("words", sorted(every_command(cli.build())), ids=" ".join)
def test_every_command_has_help_and_json(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: organism {' '.join(words)}" in shown
    assert "--json" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], 'error: Unknown command "nonsense". Available commands: '),
        (["up", "--nonsense"], "error: Unknown option: --nonsense → see `organism up --help`"),
        (["up", "nonsense"], "error: unexpected argument 'nonsense' → see `organism up --help`"),
        (["up", "--now", "--when-idle"], "error: --when-idle and --now exclude each other: give one of them"),
        (["bootstrap", "--now", "--when-idle"], "error: --when-idle and --now exclude each other"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith(expected)
    assert err.count("\n") == 1
    assert out == ""


def test_wrong_usage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["up", "--json", "nonsense"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": "unexpected argument 'nonsense'",
        "next_step": "see `organism up --help`",
    }
    assert err == ""


def test_an_expected_failure_is_one_line_and_1(
    failing: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    failing.then = raising(StackError("a \x1b[31mbad\nthing", "do that"))
    assert cli.run(["fake"]) == 1
    out, err = capsys.readouterr()
    assert err == "error: a �[31mbad thing → do that\n"
    assert out == ""
    assert cli.run(["fake", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "a �[31mbad thing", "next_step": "do that"}
    assert err == ""


def test_a_defect_is_one_line_with_a_log_and_70(
    failing: SimpleNamespace, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing.then = raising(KeyError("x"))
    assert cli.run(["fake"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("error: a defect: KeyError: 'x' → report it with ")
    log = Path(err.rsplit(" ", 1)[1].strip())
    assert log.parent == home / "logs"
    assert "Traceback" in log.read_text()


def test_debug_shows_the_traceback(
    failing: SimpleNamespace, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORGANISM_DEBUG", "1")
    failing.then = raising(StackError("bad"))
    assert cli.run(["fake"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_no_defect(failing: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    failing.then = raising(OSError(errno.ENOSPC, "No space left on device", "/some/file"))
    assert cli.run(["fake"]) == 1
    assert capsys.readouterr().err.startswith("error: no space left on the disk of /some/file → ")


def test_a_wrong_setting_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORGANISM_HTTP_PORT", "eighty")
    assert cli.run(["up"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ORGANISM_HTTP_PORT='eighty': ")
    assert err.endswith("→ correct or unset ORGANISM_HTTP_PORT\n")


def test_an_older_name_is_noted_on_one_line(home: Path) -> None:
    shown = subprocess.run(
        [*ORGANISM, "status"],
        env={**os.environ, "PG_DSN": "postgresql://h/d"},
        capture_output=True,
        text=True,
    )
    assert shown.stderr == "note: PG_DSN is deprecated: set ORGANISM_DSN instead\n"


def test_status_of_nothing_is_1_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORGANISM_HOME", str(tmp_path / "none"))
    assert cli.run(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert cli.run(["status"]) == 1
    assert "not running → `organism up`" in capsys.readouterr().out
    assert cli.run(["down"]) == 0
    assert capsys.readouterr().out == f"nothing was running in {tmp_path / 'none'}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_is_one_line_and_128_plus_the_signal(
    failing: SimpleNamespace, number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[str] = []

    async def wait() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), number)  # A second one does not stop the clean-up.
            await asyncio.sleep(0.05)
            cleaned.append("done")

    vars(sys.modules["organism_flows.deployments.cli.commands.fake"])["fake"] = lambda *, as_json=False: (
        wait()
    )
    assert cli.run(["fake"]) == code
    assert cleaned == ["done"]
    assert capsys.readouterr().err == f"still cleaning up\ninterrupted by {number.name}\n"


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    command = " ".join([*ORGANISM, "status", "--json", "| true; exit ${PIPESTATUS[0]}"])
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert shown.stderr == ""
    assert shown.returncode == 1


def test_results_are_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    show({"a": Path("/x")}, True, "text")
    show({"a": 1}, False, "text")
    assert capsys.readouterr().out == '{"a": "/x"}\ntext\n'


def test_progress_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as progress:
        progress(Event("ray", "ready", 1.234))
        progress(Event("ray", "note", detail="port 1 is taken"))
        progress(Event("ray", "failed", 2.0, "because"))
    assert capsys.readouterr().err == "ray: ready (1.2 s)\nport 1 is taken\nray: failed (2.0 s): because\n"


def test_the_page_has_every_exit_code() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/cli.md").read_text()
    table = page.partition("| exit code | means |\n|---|---|\n")[2].partition("\n\n")[0]
    codes = {int(row.split("|")[1]) for row in table.splitlines()}
    assert codes == {*ExitCode, 128 + signal.SIGTERM}
