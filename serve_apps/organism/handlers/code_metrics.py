"""The handler of ``code.metrics``, which measures one Python file."""

from __future__ import annotations

import ast
import stat
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

from radon.visitors import ComplexityVisitor

from organism_flows.serve_apps.organism.handler_api.errors import PermanentError, harmless
from organism_flows.serve_apps.organism.handlers.inputs import text

SIZE_LIMIT_BYTES = 5_000_000
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def handle(task: dict[str, Any]) -> dict[str, Any]:
    """Measure the Python file at params.path.

    Returns:
        path, lines, code_lines (neither blank, nor only a comment, nor of a docstring), functions, classes,
        imports (sorted module names), complexity (cyclomatic: max, mean, and the most complex function with
        its line).

    Raises:
        PermanentError: There is no such file, it cannot be read, it is too large, or it does not parse.
    """
    path = Path(text(task, "path"))
    source = _read(path)
    try:
        return {"path": str(path), **measure(source, ast.parse(source))}
    except SyntaxError as error:
        raise PermanentError(f"{path}:{error.lineno or 0}: does not parse: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise PermanentError(
            f"{path}: does not parse: {harmless(str(error)) or type(error).__name__}"
        ) from None


def measure(source: str, tree: ast.Module) -> dict[str, Any]:
    """Return the metrics of a parsed module."""
    functions = classes = 0
    imports: set[str] = set()
    docstring_lines: set[int] = set(_docstring_lines(tree))
    for node in _statements(tree.body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
                docstring_lines.update(_docstring_lines(node))
            case ast.ClassDef():
                classes += 1
                docstring_lines.update(_docstring_lines(node))
            case ast.Import():
                imports.update(alias.name for alias in node.names)
            case ast.ImportFrom():
                imports.add("." * node.level + (node.module or ""))
    # Not `splitlines`: it also splits at form feeds and others, which end no line of Python.
    lines = list(StringIO(source))
    code_lines = sum(
        1
        for number, line in enumerate(lines, 1)
        if (stripped := line.strip()) and stripped[0] != "#" and number not in docstring_lines
    )
    return {
        "lines": len(lines),
        "code_lines": code_lines,
        "functions": functions,
        "classes": classes,
        "imports": sorted(imports),
        "complexity": complexity(tree),
    }


def complexity(tree: ast.Module) -> dict[str, Any]:
    """Return the cyclomatic complexity of functions and methods, as radon counts it: max, mean, and where."""
    visitor = ComplexityVisitor.from_ast(tree)
    found = list(visitor.functions)
    todo = list(visitor.classes)
    while todo:
        inner = todo.pop()
        found += inner.methods
        todo += inner.inner_classes
    most = max(found, key=lambda function: function.complexity, default=None)
    return {
        "max": most.complexity if most else 0,
        "mean": round(sum(f.complexity for f in found) / len(found), 3) if found else 0.0,
        "function": most.fullname if most else None,
        "line": most.lineno if most else None,
    }


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


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield every statement at any depth; skip expressions, which hold none and are most of a tree."""
    todo = list(body)
    while todo:
        node = todo.pop()
        yield node
        for field in ("body", "orelse", "finalbody"):
            todo += getattr(node, field, ())
        for field in ("handlers", "cases"):
            for part in getattr(node, field, ()):
                todo += part.body


def _docstring_lines(node: ast.Module | ast.ClassDef | Function) -> range:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str()) as doc), *_]:
            return range(doc.lineno, (doc.end_lineno or doc.lineno) + 1)
    return range(0)
