"""What a handler's exception means for its task, and the text that describes it.

An exception is permanent if one of these holds. Then the task fails at once, without another attempt.

1. It has an attribute ``permanent`` that is ``True``, on the class or on the instance. A handler need not
   import anything for that. If the attribute is ``False``, the exception is transient, whatever else holds.
2. It is a `pydantic.ValidationError` or a `NotImplementedError`: the same input cannot do better next time.

Everything else is transient, ``ValueError`` and ``KeyError`` included. A flaky reply causes them as often as
bad input does, and a retry too many costs less than a task that is given up too early.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from types import FrameType, TracebackType
from typing import Any

from pydantic import ValidationError

from organism_flows.blocks.errors import PermanentError as PermanentError

ERROR_LIMIT = 2000
"""Most characters of an error text."""

_OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_HANDLER_FOLDER = os.path.join(_OWN_FOLDER, "handlers") + os.sep
_HANDLER_HELPERS = os.path.join(_HANDLER_FOLDER, "inputs.py")
_LIBRARY_FOLDERS = tuple(
    {sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def is_permanent(error: BaseException) -> bool:
    """Return True if another attempt cannot help. A group is permanent if all its members are."""
    try:
        declared = getattr(error, "permanent", None)
    except BaseException:
        declared = None
    if declared is not None:
        return bool(declared is True)
    if isinstance(error, BaseExceptionGroup):
        return all(is_permanent(member) for member in error.exceptions)
    return isinstance(error, (ValidationError, NotImplementedError))


def describe(error: BaseException) -> str:
    """Return ``TypeName: message (file:line in function)``, safe to store and bounded in length.

    Never raises, whatever the exception does when it is printed.
    """
    outer = error
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        message = str(error)
    except BaseException as second:
        message = f"<its message cannot be printed: {type(second).__name__}>"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        text += "; first: " + describe(error.exceptions[0])
    place = _place_of(error.__traceback__) or _place_of(outer.__traceback__)
    limit = ERROR_LIMIT - len(place) - 3
    return harmless(text, limit) + (f" ({harmless(place, 300)})" if place else "")


def harmless(text: str, limit: int = ERROR_LIMIT) -> str:
    """Return ``text`` so that Postgres can store it.

    The result has no NUL, no lone surrogates, and at most about ``limit`` characters of ``text``.
    """
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    text = text.replace("\x00", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def place_of_frame(frame: FrameType | None) -> str:
    """Return ``file:line in function`` of the innermost frame in the handler's own code; empty if none is."""
    while frame is not None:
        if is_user_code(frame.f_code.co_filename):
            return _place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return ""


def place_of_coroutine(coroutine: Any) -> str:
    """Return where in the handler's own code a suspended coroutine waits; empty if unknown."""
    place = ""
    for _ in range(100):
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and is_user_code(frame.f_code.co_filename):
            place = _place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        coroutine = getattr(coroutine, "cr_await", None)
        if coroutine is None:
            break
    return place


def is_user_code(filename: str) -> bool:
    """Return True if the file is the handler's own code: no library, and not the organism's own code."""
    if filename.startswith(_OWN_FOLDER):
        return filename.startswith(_HANDLER_FOLDER) and filename != _HANDLER_HELPERS
    return not filename.startswith(_LIBRARY_FOLDERS) and not filename.startswith("<")


def _place_of(trace: TracebackType | None) -> str:
    try:
        frames = [
            (frame.f_code.co_filename, line, frame.f_code.co_name)
            for frame, line in traceback.walk_tb(trace)
            if not frame.f_code.co_filename.startswith(_OWN_FOLDER)
            or frame.f_code.co_filename.startswith(_HANDLER_FOLDER)
        ]
    except BaseException:
        return ""
    if not frames:
        return ""
    chosen = next((frame for frame in reversed(frames) if is_user_code(frame[0])), frames[-1])
    return "" if chosen[0].startswith("<") else _place(*chosen)


def _place(filename: str, line: int | None, name: str) -> str:
    return f"{filename}:{line} in {name}"
