"""The `organism` command: finds commands, and turns errors into lines and exit codes.

Commands live in the folders of `deployments.cli.commands`, one module each. A command is a function or
coroutine function whose docstring is its help. It returns its exit code, or `None` for 0. It prints its
result with `deployments.cli.output.show`, and raises `OrganismError` if it fails. A command line imports
the module of its command, and the help of `organism` imports all: slow imports are inside the functions.

`deployments.cli.exit_codes` lists the exit codes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, UnusedCliTokensError, ValidationError

from organism_flows.blocks.errors import OrganismError
from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import show_error

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS_PACKAGE = "organism_flows.deployments.cli.commands"
COMMANDS = {
    "up": "stack.up:up",
    "down": "stack.down:down",
    "status": "stack.status:status",
    "ui": "stack.ui:ui",
    "env": "stack.env:env",
    "demo": "stack.demo:demo",
    "bootstrap": "release.bootstrap:bootstrap",
    "submit": "tasks.submit:submit",
    "dispatch": "operation.dispatch:dispatch",
    "tasks": "tasks.control:tasks",
    "redrive": "tasks.redrive:redrive",
    "handlers": "release.handlers:handlers",
    "limits": "operation.limits:limits",
    "top": "operation.top:top",
    "drift": "operation.drift:drift",
    "verify": "operation.verify:verify",
    "leftovers": "operation.leftovers:leftovers",
    "serve-config": "release.serve_config:serve_config",
    "deploy": "release.deploy:deploy",
    "schedule": "operation.schedule:schedule",
    "alerts": "operation.alerts:alerts",
    "migrate": "release.migrate:migrate",
}
"""Module and function, or cyclopts `App`, of each command by its name on the command line."""


def build() -> App:
    """Return the cyclopts `App` with all commands."""
    app = App(
        name="organism",
        help="Run work from a Postgres table on Ray Serve, with Prefect flows in between.",
        version=_version,
        help_on_error=False,
    )
    for name, place in COMMANDS.items():
        app.command(f"{COMMANDS_PACKAGE}.{place}", name=name)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, and end the process with its exit code. Entry point of the console script."""
    # What imports make stays. To look through it again and again takes 7 % of a short command.
    gc.set_threshold(50_000, 20, 20)
    ended: list[int] = []
    # Registered first, so called last.
    atexit.register(_end_at_once, ended)
    ended.append(run(sys.argv[1:] if arguments is None else arguments))
    sys.exit(ended[0])


def _end_at_once(ended: list[int]) -> None:
    """End the process with the code in ``ended``, if there is one, before Python takes all modules apart.

    That takes 0.02 s of a short command, and 0.4 s where Prefect and Ray are imported.
    """
    if ended:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended[0])


def run(arguments: Sequence[str]) -> int:
    """Run one command line, and return its exit code. Every failure is shown on one line."""
    as_json = "--json" in arguments
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        code = _execute(arguments)
        sys.stdout.flush()
        return code
    except CycloptsError as error:
        what = str(error)
        if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
            what = f"unexpected argument {error.unused_tokens[0]!r}"
        elif isinstance(error, ValidationError) and error.exception_message:
            what = error.exception_message
        show_error(what.rstrip("."), f"see `{_help_command(arguments)}`", as_json)
        return ExitCode.USAGE
    except OrganismError as error:
        _show_traceback()
        show_error(error.what, error.next_step, as_json)
        return ExitCode.FAILED
    except BrokenPipeError:
        # The reader of our output has closed the pipe, as in `organism tasks list | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        _show_traceback()
        if no_space := _no_space(error):
            show_error(no_space, "free some space, then run this again", as_json)
            return ExitCode.FAILED
        if passing := _of_postgres(error):
            show_error(passing, "wait until Postgres is as it should be, then run this again", as_json)
            return ExitCode.FAILED
        log = _write_traceback()
        where = f"report it with {log}" if log else "set ORGANISM_DEBUG=1 to see where"
        show_error(f"a defect: {type(error).__name__}: {error}", where, as_json)
        return ExitCode.DEFECT


def _execute(arguments: Sequence[str]) -> int:
    app = build()
    if not arguments or arguments[0] not in COMMANDS:
        for name in COMMANDS:
            _ = app[name]  # imports it: the help of `organism` shows the docstrings of all
    command, bound, _ = app.parse_args(
        list(arguments), exit_on_error=False, print_error=False, help_on_error=False
    )
    result = command(*bound.args, **bound.kwargs)
    if hasattr(result, "__await__"):
        from organism_flows.deployments.cli.interrupts import run_until_interrupted

        result = run_until_interrupted(result)
    return result if isinstance(result, int) else ExitCode.DONE


def _help_command(arguments: Sequence[str]) -> str:
    command = [arguments[0]] if arguments and arguments[0] in COMMANDS else []
    return " ".join(["organism", *command, "--help"])


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    # Deprecation notes for users are one line. Those of libraries are not for users.
    if issubclass(category, FutureWarning) or os.environ.get("ORGANISM_DEBUG"):
        print(f"note: {' '.join(str(message).split())}", file=sys.stderr)


def _no_space(error: BaseException) -> str:
    import errno

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{f' of {error.filename}' if error.filename else ''}"
    if getattr(error, "sqlstate", None) == "53100":
        return f"the disk of Postgres is full: {error}"
    return ""


def _of_postgres(error: BaseException) -> str:
    """Return a line for an error of Postgres after which a retry can succeed, and else an empty text."""
    if not hasattr(error, "sqlstate") and type(error).__module__.partition(".")[0] != "asyncpg":
        return ""
    from organism_flows.blocks.queue.db.sqlstates import verdict

    return f"Postgres does not take this now: {error}" if verdict(error) == "passes" else ""


def _show_traceback() -> None:
    if os.environ.get("ORGANISM_DEBUG"):
        import traceback

        traceback.print_exc()


def _write_traceback() -> Path | None:
    """Write the current traceback to a file in the stack's logs or the temporary folder; return its path."""
    import tempfile
    import traceback
    from pathlib import Path

    folders = [Path(tempfile.gettempdir())]
    with contextlib.suppress(Exception):
        from organism_flows.blocks.settings import load_settings

        folders.insert(0, load_settings().home / "logs")
    for folder in folders:
        with contextlib.suppress(OSError):
            descriptor, name = tempfile.mkstemp(prefix="defect-", suffix=".log", dir=folder)
            with os.fdopen(descriptor, "w") as file:
                traceback.print_exc(file=file)
            return Path(name)
    return None


def _version() -> str:
    from importlib.metadata import version

    return version("organism-flows")


if __name__ == "__main__":
    main()
