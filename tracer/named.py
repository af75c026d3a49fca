"""The stated form of what has a name rather than a content: functions, classes, files, threads.

Nothing is called, read, moved or taken out of any of them.
"""

from __future__ import annotations

import collections
import functools
import io
import re
import sys
import types
import weakref
from threading import Thread
from typing import Any, cast

from tracer.look import MISSING, attribute, class_of, clean, name_of, qualname_of, shown
from tracer.walk import Form, Walk

__all__ = ["BY_NAME", "BY_TYPE"]

REPR_LENGTH = 1000  # characters
FRAMES = 20  # of a traceback, those nearest to the raise


def _named(value: Any, text: str) -> dict[str, str]:
    return {"__type__": name_of(class_of(value)), "repr": clean(text)[:REPR_LENGTH]}


def _shown(walk: Walk, value: Any, depth: int) -> Any:
    return _named(value, shown(value))


def _range(walk: Walk, value: Any, depth: int) -> Any:
    return _named(value, range.__repr__(value))


def _function(walk: Walk, value: Any, depth: int) -> Any:
    module = value.__module__
    before = f"{clean(module)}." if class_of(module) is str else ""
    return _named(value, f"<function {before}{clean(value.__qualname__)}>")


def _method(walk: Walk, value: Any, depth: int) -> Any:
    inner = value.__func__
    name = value.__func__.__qualname__ if class_of(inner) is types.FunctionType else "?"
    return _named(value, f"<method {clean(name)} of {name_of(class_of(value.__self__))}>")


def _builtin(walk: Walk, value: Any, depth: int) -> Any:
    return _named(value, f"<built-in function {value.__name__}>")


def _running(walk: Walk, value: Any, depth: int) -> Any:
    """Describe a generator or coroutine by its name; nothing is taken out of it."""
    return _named(value, f"<{qualname_of(class_of(value))} {clean(value.__qualname__)}>")


def _module(walk: Walk, value: Any, depth: int) -> Any:
    name = attribute(value, "__name__")
    return _named(value, f"<module {name if class_of(name) is str else '?'}>")


def _traceback(walk: Walk, value: Any, depth: int) -> Any:
    frames: collections.deque[str] = collections.deque(maxlen=FRAMES)
    step = value
    while step is not None:
        code = step.tb_frame.f_code
        frames.append(clean(f"{code.co_filename}:{step.tb_lineno} in {code.co_name}"))
        step = step.tb_next
    return {"__type__": name_of(class_of(value)), "frames": list(frames)}


def _reference(walk: Walk, value: Any, depth: int) -> Any:
    target: Any = cast(Any, weakref.ref).__call__(value)
    text = "<dead weakref>" if target is None else f"<weakref to {name_of(class_of(target))}>"
    return _named(value, text)


def _thread(walk: Walk, value: Any, depth: int) -> Any:
    name = attribute(value, "_name")
    return _named(value, f"<{qualname_of(class_of(value))} {shown(name)}>")


def _file(walk: Walk, value: Any, depth: int) -> Any:
    """Describe a file by its name, without reading, seeking or flushing it."""
    raw: Any = value
    if class_of(raw) is io.TextIOWrapper:
        raw = raw.buffer
    kind = class_of(raw)
    if kind is io.BufferedReader or kind is io.BufferedWriter or kind is io.BufferedRandom:
        raw = raw.raw
    name = attribute(raw, "name") if class_of(raw) is io.FileIO else MISSING
    text = "" if name is MISSING else f" name={shown(name)}"
    return _named(value, f"<{qualname_of(class_of(value))}{text}>")


def _socket(walk: Walk, value: Any, depth: int) -> Any:
    number = sys.modules["_socket"].socket.fileno(value)
    return _named(value, f"<{qualname_of(class_of(value))} fd={number}>")


def _sized(walk: Walk, value: Any, depth: int) -> Any:
    """Describe a mapped file by its size; no page of it is touched."""
    return {"__type__": name_of(class_of(value)), "bytes": sys.modules["mmap"].mmap.__len__(value)}


def _pattern(walk: Walk, value: Any, depth: int) -> Any:
    flags = f", {value.flags}" if value.flags & ~re.UNICODE else ""
    return _named(value, f"re.compile({shown(value.pattern)}{flags})")


def _partial(walk: Walk, value: Any, depth: int) -> Any:
    inner = value.func if class_of(value) is functools.partial else value
    text = _function(walk, inner, depth)["repr"] if class_of(inner) is types.FunctionType else "?"
    return _named(value, f"<partial of {text}>")


BY_NAME: dict[str, Form] = {
    "re.Pattern": _pattern,
    "mmap.mmap": _sized,
    "_socket.socket": _socket,
}
BY_TYPE: tuple[tuple[Any, ...], ...] = (
    (_shown, type, BaseException),
    (_range, range),
    (_function, types.FunctionType),
    (_method, types.MethodType),
    (_builtin, types.BuiltinFunctionType),
    (_partial, functools.partial),
    (_running, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    (_module, types.ModuleType),
    (_traceback, types.TracebackType),
    (_reference, weakref.ref),
    (_thread, Thread),
    (_file, io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO),
)
