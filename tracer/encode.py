"""Any Python value to JSON bytes, at call time, without raising because of the value.

Describing a value runs no code of the program: no `__repr__`, `__len__`, `__iter__`, property or
`__eq__` of any class, so none can loop, raise, ask a database or record events. Models of
Pydantic 2 are the exception: their serializers are there to be run (`libraries.pydantic`).

orjson writes what consists of exact built-in types; a bounded walk describes the rest. Nothing
else may reach orjson 3.13.0. With a `default` callback it reads freed memory when the callback,
or a thread that runs meanwhile, shortens a list; the `value` of an enum is such code too, and one
that raises ends the process, as does a dataclass with a slot not set or a tzinfo that raises.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson

from tracer.counts import value_of
from tracer.cut import cut, without_data_uris
from tracer.forms import form_of
from tracer.look import class_of
from tracer.walk import Walk, dumps, fits

__all__ = ["Encoder", "cut", "encode", "encode_object"]

MAX_BYTES = 1 << 20  # of the JSON of one value
FEW = 16  # members of a small object
SHORT = 1000  # characters of a small text, and bytes of JSON not worth a second look

_MARKER = b'{"__type__"'  # how the form of anything begins that is no object
_dumps = orjson.dumps  # of exact built-in types, and of what a walk made


class Encoder:
    """Write values as JSON of at most `max_bytes`, and count those that had to be cut.

    Any thread may use it, without a lock.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._cuts = count()

    @property
    def truncated(self) -> int:
        """How many values were cut."""
        return value_of(self._cuts)

    def object(self, value: Any) -> bytes:
        """Return `value` as a JSON object, wrapped as `{"result": value}` where it is none."""
        try:
            if class_of(value) is dict and len(value) <= FEW:
                for part in value.values():
                    kind = class_of(part)
                    if kind is str:
                        if len(part) > SHORT:
                            break
                    elif kind is not int and part is not None and kind is not bool:
                        break
                else:  # nearly every decorated call: nothing to look into, nothing to cut
                    return _dumps(value)
            elif value is None:
                return b'{"result":null}'
        except Exception:  # noqa: BLE001, S110 - whatever orjson refuses, the walk finds a form for
            pass
        encoded = self.value(value)
        if class_of(value) is dict or (encoded[:1] == b"{" and not encoded.startswith(_MARKER)):
            return encoded
        return b'{"result":%b}' % encoded

    def value(self, value: Any) -> bytes:
        """Return `value` as JSON of any kind."""
        kind = class_of(value)
        try:
            if kind is str:
                if len(value) <= self._max_bytes:
                    return self._finished(_dumps(value), was_cut=False)
            elif kind is dict or kind is list or kind is tuple:
                if fits(value, self._max_bytes, set()):
                    return self._finished(dumps(value), was_cut=False)
            elif value is None or kind is int or kind is bool:
                return _dumps(value)
        except Exception:  # noqa: BLE001, S110 - whatever orjson refuses, the walk finds a form for
            pass
        try:
            walk = Walk(self._max_bytes, form_of)
            return self._finished(_dumps(walk.plain(value, 0)), was_cut=walk.cut)
        except Exception as error:  # noqa: BLE001 - RecursionError or MemoryError: no room for a walk
            shown = f"<encoding raised {class_of(error).__name__}>"
            return _dumps({"__type__": "builtins.object", "repr": shown})

    def cut(self, encoded: bytes, max_bytes: int) -> bytes:
        """Shorten JSON already written to at most `max_bytes`, and count it where that cuts."""
        if len(encoded) > max_bytes:
            next(self._cuts)
        return cut(encoded, max_bytes)

    def _finished(self, encoded: bytes, *, was_cut: bool) -> bytes:
        if len(encoded) > SHORT:
            # `in` would first try the pattern as a number (400 ns); a lone byte is found at 50 GB/s
            if encoded.find(b";") >= 0 and encoded.find(b";base64,") >= 0:
                encoded = without_data_uris(encoded)
            if len(encoded) > self._max_bytes:
                encoded = cut(encoded, self._max_bytes)
                was_cut = True
        if was_cut:
            next(self._cuts)
        return encoded


_unbounded = Encoder()
encode = _unbounded.value
encode_object = _unbounded.object
