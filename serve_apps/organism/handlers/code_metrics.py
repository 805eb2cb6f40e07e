"""``code.metrics``: figures about one Python file."""

from __future__ import annotations

import ast
import stat
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from serve_apps.organism.errors import PermanentError, harmless
from serve_apps.organism.handlers.inputs import text

SIZE_LIMIT_BYTES = 5_000_000
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def handle(task: dict[str, Any]) -> dict[str, Any]:
    """Measure the Python file at params.path.

    Returns:
        path, lines, code_lines (neither blank, nor only a comment, nor of a docstring), functions, classes,
        imports (sorted module names), complexity (McCabe's: max, mean, and the most complex function with its
        line).

    Raises:
        PermanentError: There is no such file, or it does not parse.
    """
    path = Path(text(task, "path"))
    source = _read(path)
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise PermanentError(f"{path}:{error.lineno or 0}: does not parse: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise PermanentError(
            f"{path}: does not parse: {harmless(str(error)) or type(error).__name__}"
        ) from None
    return {"path": str(path), **measure(source, tree)}


def measure(source: str, tree: ast.Module) -> dict[str, Any]:
    """The figures of a parsed module."""
    functions: list[tuple[str, Function]] = []
    classes = 0
    imports: set[str] = set()
    docstring_lines: set[int] = set(_docstring_lines(tree))
    for name, node in _statements(tree.body, ""):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions.append((name + node.name, node))
                docstring_lines.update(_docstring_lines(node))
            case ast.ClassDef():
                classes += 1
                docstring_lines.update(_docstring_lines(node))
            case ast.Import():
                imports.update(alias.name for alias in node.names)
            case ast.ImportFrom():
                imports.add("." * node.level + (node.module or ""))
    lines = source.splitlines()
    code_lines = sum(
        1
        for number, line in enumerate(lines, 1)
        if (stripped := line.strip()) and stripped[0] != "#" and number not in docstring_lines
    )
    figures = [(complexity(node), name, node.lineno) for name, node in functions]
    most = max(figures, key=lambda figure: figure[0], default=None)
    return {
        "lines": len(lines),
        "code_lines": code_lines,
        "functions": len(functions),
        "classes": classes,
        "imports": sorted(imports),
        "complexity": {
            "max": most[0] if most else 0,
            "mean": round(sum(figure[0] for figure in figures) / len(figures), 3) if figures else 0.0,
            "function": most[1] if most else None,
            "line": most[2] if most else None,
        },
    }


def complexity(function: Function) -> int:
    """McCabe's cyclomatic complexity of one function, those nested in it included: 1 + its decisions.

    Counted here, by the rules of ruff's C901, because of what the libraries leave out: mccabe looks into
    neither `finally` nor `except*` nor `match`, hides functions defined under an `if`, and takes every `try`
    for a branch; radon does not count `except*`.
    """
    return 1 + sum(_decisions(node) for _, node in _statements(function.body, ""))


def _decisions(node: ast.stmt) -> int:
    match node:
        case ast.If() | ast.For() | ast.AsyncFor() | ast.While() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return 1
        case ast.Try() | ast.TryStar():
            return len(node.handlers) + bool(node.orelse)
        case ast.Match():
            last = node.cases[-1]
            catches_all = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
            return len(node.cases) - (catches_all and last.guard is None)
        case _:
            return 0


def _read(path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise PermanentError(f"params.path: {path} is not a file")
        if about.st_size > SIZE_LIMIT_BYTES:
            raise PermanentError(
                f"params.path: {path} has {about.st_size:,} bytes, more than {SIZE_LIMIT_BYTES:,}"
            )
        with tokenize.open(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise PermanentError(f"params.path: there is no file {path}") from None
    except PermissionError:
        raise PermanentError(f"params.path: {path} may not be read") from None
    except (SyntaxError, UnicodeError, ValueError) as error:
        raise PermanentError(f"{path}: not Python text: {harmless(str(error), 300)}") from None


def _statements(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
    """Every statement with the dotted prefix of its scope; not expressions, which hold none."""
    todo = [(prefix, node) for node in reversed(body)]
    while todo:
        scope, node = todo.pop()
        yield scope, node
        inner = scope
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{scope}{node.name}."
        blocks: list[ast.stmt] = []
        for field in ("body", "orelse", "finalbody"):
            blocks += getattr(node, field, ())
        for field in ("handlers", "cases"):
            for part in getattr(node, field, ()):
                blocks += part.body
        todo.extend((inner, child) for child in reversed(blocks))


def _docstring_lines(node: ast.Module | ast.ClassDef | Function) -> range:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str()) as doc), *_]:
            return range(doc.lineno, (doc.end_lineno or doc.lineno) + 1)
    return range(0)
