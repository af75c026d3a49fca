"""Any Python value to JSON bytes, at call time, without raising because of the value."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

import orjson

__all__ = ["encode", "encode_object"]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_LENIENT = _OPTIONS | orjson.OPT_NON_STR_KEYS  # slower, so only when the fast way refuses

_MARKER = b'{"__type__"'  # how the stand-in for an unknown object begins

_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = 1000  # characters of one repr
_short.maxlevel = 4


def encode(value: Any) -> bytes:
    """Return `value` as JSON; what has no JSON form becomes its type and a bounded repr."""
    try:
        return orjson.dumps(value, _stand_in, _OPTIONS)
    except TypeError:
        pass
    try:
        return orjson.dumps(value, _stand_in, _LENIENT)
    except TypeError:  # cycles, lone surrogates, integers of 2^64 and more
        return orjson.dumps(_stand_in(value))


def encode_object(value: Any) -> bytes:
    """Return `value` as a JSON object, wrapped as `{"result": value}` where it is none."""
    encoded = encode(value)
    if encoded[:1] == b"{" and not encoded.startswith(_MARKER):
        return encoded
    return b'{"result":%b}' % encoded


def _stand_in(value: Any) -> Any:
    if type(value) is str:  # refused because of a lone surrogate
        return _clean(value)
    kind = type(value)
    try:
        shown = _short.repr(value)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything
        shown = f"<repr raised {type(error).__name__}>"
    return {"__type__": f"{kind.__module__}.{kind.__qualname__}", "repr": _clean(shown)}


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
