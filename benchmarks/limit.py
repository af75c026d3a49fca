"""The limit: the least an honest tracer can do per call, written by hand.

Get, set and restore a context variable, read two clocks, make a unique id, snapshot inputs and
outputs with orjson, copy them at their exact size into a record that holds the contract's fields,
append the record. No queue bound, no delivery, no durability, no redaction, no guard, no open
spans: what a tracer costs above this is the price of those. A change to this file is a commit of
its own, with figures before and after.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from http.client import HTTPConnection
from itertools import count
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from orjson import dumps

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Block", "new_session", "post", "records", "traced", "traced_async"]

P = ParamSpec("P")
R = TypeVar("R")

BATCH = 500  # events a request, as the tracer's default

_drawn = os.urandom(9).hex()
_PREFIX = f"{_drawn[:8]}-{_drawn[8:12]}-4{_drawn[12:15]}-8{_drawn[15:18]}-"
_SESSION = f"{_PREFIX}{0:012x}"

# event_id, start, end, duration, inputs, outputs; a template per decorated function holds the rest
_ROOT = '{"event_id":"%%b","session_id":"%s","source":"dev",'
_CHILD = '{"event_id":"%%b","session_id":"%s","parent_id":"%%b","source":"dev",'
_REST = (
    '"event_type":"tool","event_name":"%s","start_time":%%d,"end_time":%%d,"duration":%%.3f,'
    '"inputs":%%b,"outputs":%%b,"metadata":{}}'
)

records: list[bytes] = []
_append = records.append
_current: ContextVar[bytes | None] = ContextVar("limit", default=None)
_get, _set = _current.get, _current.set
_next = count(1 << 47).__next__  # twelve hex digits without padding
_wall = time.time_ns
_id = _PREFIX.encode() + b"%x"


def _templates(name: str) -> tuple[bytes, bytes]:
    rest = _REST % name
    return (_ROOT % _SESSION + rest).encode(), (_CHILD % _SESSION + rest).encode()


def traced(func: Callable[P, R]) -> Callable[P, R]:
    """Record every call of a function without `*args`, `**kwargs` and defaults."""
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    root, child = _templates(func.__name__)

    @wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        up = _get()
        own = _id % _next()
        bound: dict[str, Any] = {**kwargs}
        for at, value in enumerate(args):  # `dict(zip(names, args))` takes three times as long
            bound[names[at]] = value
        inputs = dumps(bound)
        _set(own)
        start = _wall()
        try:
            result = func(*args, **kwargs)
        finally:
            end = _wall()
            _set(up)
        times = start // 1_000_000, end // 1_000_000, (end - start) / 1e6
        if up is None:
            _append(root % (own, *times, inputs, dumps(result)))
        else:
            _append(child % (own, up, *times, inputs, dumps(result)))
        return result

    return wrapper


def traced_async(
    func: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Record every call of a coroutine function; otherwise as `traced`."""
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    root, child = _templates(func.__name__)

    @wraps(func)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        up = _get()
        own = _id % _next()
        bound: dict[str, Any] = {**kwargs}
        for at, value in enumerate(args):  # `dict(zip(names, args))` takes three times as long
            bound[names[at]] = value
        inputs = dumps(bound)
        _set(own)
        start = _wall()
        try:
            result = await func(*args, **kwargs)
        finally:
            end = _wall()
            _set(up)
        times = start // 1_000_000, end // 1_000_000, (end - start) / 1e6
        if up is None:
            _append(root % (own, *times, inputs, dumps(result)))
        else:
            _append(child % (own, up, *times, inputs, dumps(result)))
        return result

    return wrapper


class Block:
    """A span around a block of code: `with Block("search", {...}) as span: span.set({...})`."""

    __slots__ = ("_inputs", "_outputs", "_own", "_start", "_templates", "_up")
    known: dict[str, tuple[bytes, bytes]] = {}  # noqa: RUF012 - templates by name, one for all

    def __init__(self, name: str, inputs: dict[str, Any]) -> None:
        templates = self.known.get(name)
        if templates is None:
            templates = self.known[name] = _templates(name)
        self._templates = templates
        self._inputs = dumps(inputs)
        self._outputs = b"{}"

    def __enter__(self) -> Self:
        self._up = _get()
        self._own = own = _id % _next()
        _set(own)
        self._start = _wall()
        return self

    def set(self, outputs: dict[str, Any]) -> None:
        """Snapshot the outputs."""
        self._outputs = dumps(outputs)

    def __exit__(self, *_: object) -> None:
        end = _wall()
        up, start = self._up, self._start
        _set(up)
        root, child = self._templates
        times = start // 1_000_000, end // 1_000_000, (end - start) / 1e6
        if up is None:
            _append(root % (self._own, *times, self._inputs, self._outputs))
        else:
            _append(child % (self._own, up, *times, self._inputs, self._outputs))


def new_session() -> bytes:
    """Return the body that opens the session all records name."""
    return b'{"session_id":"%b","session_name":"limit"}' % _SESSION.encode()


def post(url: str) -> None:
    """Send every record in batches, by hand, over one connection, and forget them."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Content-Type": "application/json"}
    batches = [
        b'{"events":[%b]}' % b",".join(records[at : at + BATCH])
        for at in range(0, len(records), BATCH)
    ]
    path = f"/v1/sessions/{_SESSION}/events/batch"
    for where, body in [("/v1/sessions", new_session()), *((path, body) for body in batches)]:
        connection.request("POST", where, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status not in (200, 409):
            raise RuntimeError(f"{where}: {answer.status} {said[:200]!r}")
    connection.close()
    records.clear()
