"""What an exception that left a call says about itself, as part of an event's metadata.

Without the source lines that `traceback` would show: it reads files for them, on the caller's
thread.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from tracer.context import quietly
from tracer.errors import describe

__all__ = ["details", "is_cancellation", "text_of"]

MAX_FRAMES = 50  # the outermost 10 and the innermost 40
OUTER_FRAMES = 10
MAX_CHAIN = 5  # causes and contexts behind an exception

_CANCELLATIONS = frozenset((("asyncio.exceptions", "CancelledError"), ("trio", "Cancelled")))


def text_of(error: BaseException) -> str:
    """Return an exception as `TypeName: message`; what its `__str__` does is no event."""
    return quietly(describe, error)


def is_cancellation(error: BaseException) -> bool:
    """Tell whether a task was cancelled, without loading what defines that."""
    return any((kind.__module__, kind.__name__) in _CANCELLATIONS for kind in type(error).__mro__)


def details(error: BaseException) -> dict[str, Any]:
    """Return type, message, traceback (outermost frame first) and what it was raised from."""
    found = _one(error)
    chain: list[dict[str, Any]] = []
    seen = {id(error)}
    behind = _behind(error)
    while behind is not None and id(behind) not in seen and len(chain) < MAX_CHAIN:
        seen.add(id(behind))
        chain.append(_one(behind))
        behind = _behind(behind)
    if chain:
        found["from"] = chain
    return found


def _behind(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _one(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    found: dict[str, Any] = {"type": name, "message": text_of(error).partition(": ")[2]}
    frames = _frames(error.__traceback__)
    if frames:
        found["traceback"] = "\n".join(frames)
    return found


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _frames(traceback: TracebackType | None) -> list[str]:
    """Return a line for each frame, ours left out."""
    found: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not traceback.tb_frame.f_globals.get("__name__", "").startswith("tracer."):
            name = getattr(code, "co_qualname", code.co_name)  # 3.11 and later know the class
            found.append(f'File "{code.co_filename}", line {traceback.tb_lineno}, in {name}')
        traceback = traceback.tb_next
    if len(found) > MAX_FRAMES:
        left_out = len(found) - MAX_FRAMES
        inner = found[OUTER_FRAMES - MAX_FRAMES :]
        found = [*found[:OUTER_FRAMES], f"... {left_out} more frames ...", *inner]
    return found
