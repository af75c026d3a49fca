"""Any Python value to JSON bytes, at call time, without raising because of the value.

orjson alone where it takes the value; else a walk over copies of the containers, in which every
part orjson does take stays its work. No Python code runs inside orjson: with a `default` callback
it reads freed memory when the callback, or a thread that runs meanwhile, shortens a list, and it
turns a KeyboardInterrupt into a TypeError (3.13.0). For the same reason dataclasses and datetimes
are passed through to the walk: a slot that is not set or a tzinfo that raises ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from reprlib import Repr
from typing import Any, cast

import orjson

from tracer.context import CURRENT, Suppression, restore

__all__ = ["encode", "encode_object"]

_OPTIONS = (
    orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
)

_MARKER = b'{"__type__"'  # how the stand-in for an unknown object begins

MAX_DEPTH = 100  # levels of a walk; orjson takes 254, a cycle would take them all
MAX_NODES = 10_000  # values a walk looks at, 10 ms of the caller's time; the rest is named
KEY_LENGTH = 200  # characters of a key that is no text

REPR_LENGTH = 1000  # characters of one repr

_MOMENTS = (datetime, date, time)
# One step of the interpreter each, whatever a subclass overrides: no thread changes them meanwhile.
_copy_dict = cast("Callable[[Any], dict[Any, Any]]", dict[Any, Any].copy)
_copy_list = cast("Callable[[Any], list[Any]]", list[Any].copy)
_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = REPR_LENGTH
_short.maxlevel = 4


def encode(value: Any) -> bytes:
    """Return `value` as JSON; what has no JSON form becomes its type and a bounded repr."""
    try:
        return orjson.dumps(value, None, _OPTIONS)
    except Exception:  # noqa: BLE001, S110 - whatever it refuses, the walk finds a form for
        pass
    # a `__repr__` of the user's may be traced itself: what our looking at it calls is no event
    quiet = Suppression(CURRENT.get())
    CURRENT.set(quiet)
    try:
        return orjson.dumps(_Walk().plain(value, 0))
    except Exception as error:  # noqa: BLE001 - RecursionError or MemoryError: no room for a walk
        shown = f"<encoding raised {type(error).__name__}>"
        return orjson.dumps({"__type__": "builtins.object", "repr": shown})
    finally:
        quiet.ended = True
        restore(quiet)


def encode_object(value: Any) -> bytes:
    """Return `value` as a JSON object, wrapped as `{"result": value}` where it is none."""
    encoded = encode(value)
    if type(value) is dict:
        return encoded
    if encoded[:1] == b"{" and not encoded.startswith(_MARKER):
        return encoded
    return b'{"result":%b}' % encoded


class _Walk:
    """One walk over a value that orjson refuses as a whole."""

    def __init__(self) -> None:
        self._room = MAX_NODES
        self._inside: set[int] = set()  # ids of the containers above: one met again is a cycle

    def plain(self, value: Any, depth: int) -> Any:
        """Return something orjson takes, built of copies: nobody can change it meanwhile."""
        self._room -= 1
        try:
            return orjson.Fragment(orjson.dumps(value, None, _OPTIONS))
        except Exception:  # noqa: BLE001, S110 - look closer
            pass
        # by type: `isinstance` would ask the `__class__` of a mock, or of what raises there
        kind = cast(Any, type(value))
        if issubclass(kind, str):  # a lone surrogate
            return _clean(value)
        if issubclass(kind, _MOMENTS):
            return _isoformat(value)
        if depth >= MAX_DEPTH or id(value) in self._inside:
            return _stand_in(value)
        self._inside.add(id(value))
        try:
            if issubclass(kind, dict):
                return self._object(_copy_dict(value).items(), depth)
            if issubclass(kind, list):
                return self._array(_copy_list(value), depth)
            if kind is tuple:
                return self._array(list(value), depth)
            if is_dataclass(kind):
                return self._object(_attributes(value), depth)
        except Exception:  # noqa: BLE001, S110 - a user's property raised: this value alone is lost
            pass
        finally:
            self._inside.discard(id(value))
        return _stand_in(value)

    def _object(self, members: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        left_out = 0
        for key, value in members:
            if self._room <= 0:
                left_out += 1
                continue
            name = _key(key)
            while name in found:  # `{1: …, "1": …}`: no member may hide another
                name = f"{name} ({type(key).__name__})"
            found[name] = self.plain(value, depth + 1)
        if left_out:
            found["…"] = f"{left_out} more"
        return found

    def _array(self, items: list[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for at, item in enumerate(items):
            if self._room <= 0:
                found.append(f"… {len(items) - at} more")
                break
            found.append(self.plain(item, depth + 1))
        return found


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Return the public fields of a dataclass that are set."""
    missing = object()
    named = [(f.name, getattr(value, f.name, missing)) for f in fields(value)]
    return [(n, found) for n, found in named if found is not missing and not n.startswith("_")]


def _isoformat(moment: Any) -> Any:
    try:
        return moment.isoformat()
    except Exception:  # noqa: BLE001 - a user's tzinfo may raise anything
        return _stand_in(moment)


def _key(key: Any) -> str:
    kind = cast(Any, type(key))
    if issubclass(kind, str):
        return _clean(key)
    if key is None or kind in (bool, int, float):
        try:
            return orjson.dumps(key).decode()
        except TypeError:  # an integer of 2^64 or more
            pass
    elif issubclass(kind, _MOMENTS):
        return str(_isoformat(key))
    return _shown(key)[:KEY_LENGTH]


def _stand_in(value: Any) -> dict[str, str]:
    kind = cast(Any, type(value))
    try:
        name = _clean(f"{kind.__module__}.{kind.__qualname__}")
    except Exception:  # noqa: BLE001 - a user's metaclass may raise anything
        name = "builtins.object"
    return {"__type__": name, "repr": _shown(value)}


def _shown(value: Any) -> str:
    try:
        return _clean(_short.repr(value))
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything
        if type(value) is int:  # above the limit of 4,300 digits
            return f"{value:#x}"[:REPR_LENGTH]
        return f"<repr raised {type(error).__name__}>"


def _clean(text: str) -> str:
    return str.encode(text, "utf-8", "backslashreplace").decode()
