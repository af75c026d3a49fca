"""A walk over a value that JSON cannot take as it is: bounded in depth, values, bytes and time.

Containers are copied in one step of the interpreter each, so no thread changes them meanwhile;
the result consists of exact built-in types and of JSON already written, so orjson runs no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from gc import is_tracked
from math import isfinite
from time import monotonic
from typing import Any
from uuid import UUID

import orjson

from tracer.cut import CUT
from tracer.look import class_of, clean, digits, first, name_of, own, qualname_of, shown

__all__ = ["Form", "Walk", "dumps", "fits"]

MAX_DEPTH = 100  # levels; orjson takes 254, a cycle would take them all
MAX_NODES = 10_000  # values looked at one by one, about 10 ms of the caller's time
MAX_SECONDS = 0.01  # of the caller's time; checked between two values, on the monotonic clock
MAX_ATTRIBUTES = 20  # of an unknown object
KEY_LENGTH = 1000  # characters of a key
SMALL = 64  # characters of a text that has its place behind a value too large
HEAD_SHARE = 32  # part of the bound that a text keeps when it alone is larger
HEAD = 1000  # items of a container that has more than the walk may look at
MANY = 16  # items from which one look at all their types costs less than a look at each

# what the collector does not track and orjson would still look into: the zone of a datetime
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def fits(container: Any, max_bytes: int, mixed: set[int]) -> bool:
    """Return whether orjson may write a dict, list or tuple as it is; else the walk has to.

    It may not where the JSON is certainly larger than `max_bytes`, and where anything inside is no
    plain JSON value. For an enum orjson would run `value`, Python code during which a thread may
    free what orjson holds, and a `value` that raises would end the process (3.13.0). A float that
    is no number would become null without a word: that is noticed on the first level alone, a
    look at every float would cost more than encoding does.

    Args:
        container: of exactly one of the three types.
        mixed: gets the ids of the containers that cannot be taken whole.
    """
    items = container.values() if class_of(container) is dict else container
    room = max_bytes
    if len(items) > MANY:
        room = _weighed(items, room)
    else:
        for item in items:
            kind = class_of(item)
            if kind is str:
                room -= len(item)
            elif kind is float:
                if item - item != 0.0:
                    return False
            elif kind is list and len(item) > MANY:
                room = _weighed(item, room)
            elif kind is dict:  # of numbers alone: the scan below would not see it
                room -= 2 * len(item)
    return room >= 0 and _scanned(container, room, mixed, 0) >= 0


def _weighed(items: Any, room: int) -> int:
    """Return what many `items` leave of `room`, as far as one look at all of them tells."""
    room -= 2 * len(items)
    if room < 0:
        return -1
    items = list(items)  # in one step: no thread changes it meanwhile
    kind = class_of(items[0])
    try:  # methods of the type itself: they refuse what is of another one, and run nothing
        if kind is str:
            return room - sum(map(str.__len__, items))
        if kind is float and not isfinite(sum(map(float.conjugate, items))):
            return -1
    except TypeError:  # of several types
        pass
    return room


def _scanned(container: Any, room: int, mixed: set[int], depth: int) -> int:
    # The garbage collector tracks what may hold other objects: containers, instances, enums. What
    # it does not track (text, numbers; before 3.14 a dict of those) costs one step of C a piece.
    room -= 2 * len(container)
    if room >= 0 and depth < MAX_DEPTH:
        for item in filter(
            is_tracked, container.values() if class_of(container) is dict else container
        ):
            kind = class_of(item)
            if kind is dict or kind is list or kind is tuple:
                room = _scanned(item, room, mixed, depth + 1)
            elif kind is not UUID:  # which orjson reads from its slot
                room = -1
            if room < 0:
                break
        else:
            return room
    mixed.add(id(container))
    return -1


def dumps(value: Any) -> bytes:
    """Write what `fits` found good. Raises: TypeError: orjson found something it does not take."""
    return orjson.dumps(value, None, _OPTIONS)


class Walk:
    """One walk over one value.

    Attributes:
        cut: True once something was left out for a bound.
        max_bytes: bound on the JSON; passed a little, the caller cuts what is written at last.
    """

    def __init__(self, max_bytes: int, form_of: Callable[[Any], Form | None]) -> None:
        self.cut = False
        self.max_bytes = max_bytes
        self._form_of = form_of
        self._bytes = max_bytes - max_bytes // 16  # the rest is for what stands between values
        self._nodes = MAX_NODES
        self._until = monotonic() + MAX_SECONDS
        self._inside: set[int] = set()  # ids of the containers above: one met again is a cycle
        self._mixed: set[int] = set()  # ids of containers that `fits` refused
        self._bare = False  # inside the attributes of an unknown object: one level is enough

    def plain(self, value: Any, depth: int) -> Any:
        """Return something orjson takes without running code of anybody's."""
        self._nodes -= 1
        kind = class_of(value)
        if kind is str:
            return self.text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return integer(value)
        if kind is float:
            return floating(value)
        if kind is dict or kind is list or kind is tuple:
            written = self._written(value, depth)
            if written is not None:
                return written
        if id(value) in self._inside:
            return {"__type__": name_of(kind), CUT: {"reason": "cycle"}}
        if depth >= MAX_DEPTH:
            self.cut = True
            return {"__type__": name_of(kind), CUT: {"reason": "depth"}}
        self._inside.add(id(value))
        try:
            form = self._form_of(kind)
            return self.unknown(value, depth) if form is None else form(self, value, depth)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - closed, released, changed: this value alone
            reason = f"{qualname_of(class_of(error))} while it was described"
            return {"__type__": name_of(kind), "repr": f"<{qualname_of(kind)} object: {reason}>"}
        finally:
            self._inside.discard(id(value))

    def _written(self, value: Any, depth: int) -> Any:
        if id(value) not in self._mixed:
            try:
                encoded = dumps(value) if fits(value, self._bytes, self._mixed) else b""
            except (TypeError, RuntimeError):  # no text as key, a surrogate; or changed meanwhile
                return None
            if not encoded:
                return None
            if len(encoded) <= self._bytes:
                self._bytes -= len(encoded)
                return orjson.Fragment(bytes(memoryview(encoded)))  # at its exact size
        return None

    def text(self, value: str) -> Any:
        """Return a text, or its size and its head where it is longer than what is left."""
        length = str.__len__(value)
        if length > self._bytes:
            self.cut = True
            kept = min(max(self._bytes, 0), self.max_bytes // HEAD_SHARE)
            head = str.__getitem__(value, slice(0, kept))
            self._bytes -= len(head)
            # no SHA-256: 100 MB of it would take 50 ms and more of the caller's time
            return {"__type__": "builtins.str", CUT: {"characters": length}, "head": clean(head)}
        self._bytes -= length
        return clean(value)

    def object(self, pairs: Iterable[tuple[Any, Any]], total: int, depth: int) -> dict[str, Any]:
        """Return an object of `pairs`, copies the caller made; `total` is how many there were."""
        found: dict[str, Any] = {}
        again: dict[str, int] = {}
        for key, value in pairs:
            over = found and self._is_used_up()  # the first is always looked at
            if over and (len(found) >= MANY or not _is_small(value)):
                continue  # the small ones behind a large one still have their place
            if class_of(key) is str and str.isascii(key) and len(key) <= KEY_LENGTH:
                name = key
            else:
                name = self._key(key, depth)
            self._bytes -= len(name)
            if name in found:
                name = _unused(name, key, found, again)
            found[name] = self.plain(value, depth + 1)
        if len(found) < total:
            self.cut = True
            found[_unused(CUT, "", found, again)] = {"members": total, "kept": len(found)}
        return found

    def array(self, items: Iterable[Any], total: int, depth: int) -> list[Any]:
        """Return an array of `items`, copies the caller made; `total` is how many there were."""
        found: list[Any] = []
        for item in items:
            if found and self._is_used_up():
                break
            self._bytes -= 2
            found.append(self.plain(item, depth + 1))
        if len(found) < total:
            self.cut = True
            found.append({CUT: {"items": total, "kept": len(found)}})
        return found

    def few(self, read: Callable[[Any], Any], value: Any, total: int) -> tuple[list[Any], int]:
        """Return as many as can be shown of the `total` items `read(value)` gives, and how many.

        Of what cannot be shown whole the first thousand are enough.
        """
        room = max(self._nodes, 0)
        most = room if total <= room else min(HEAD, room)
        items = first(read, value, most + 1)
        return items[:most], max(total, len(items)) if len(items) > most else len(items)

    def grant(self, seconds: float) -> None:
        """Leave time out of account that a library took to describe a value of its own."""
        self._until += seconds

    def unknown(self, value: Any, depth: int) -> dict[str, Any]:
        """Return type, repr and, one level deep, the public attributes of any object."""
        found: dict[str, Any] = {"__type__": name_of(class_of(value)), "repr": shown(value)}
        if not self._bare:
            pairs = own(value, self._nodes + 1)
            if pairs:
                self._bare = True
                try:
                    few = pairs[:MAX_ATTRIBUTES]
                    found["attributes"] = self.object(few, len(pairs), depth)
                finally:
                    self._bare = False
        return found

    def _key(self, key: Any, depth: int) -> str:
        kind = class_of(key)
        if kind is tuple or kind is frozenset:
            text = shown(key)
        elif kind is str:
            text = key
        else:
            found = self.plain(key, depth + 1)
            if class_of(found) is dict:
                found = found.get("text") or found.get("base64") or found.get("repr") or found
            text = found if class_of(found) is str else orjson.dumps(found).decode()
        length = len(text)
        if length > KEY_LENGTH:
            self.cut = True
            text = f"{text[:KEY_LENGTH]}… ({length} characters)"
        return clean(text)

    def _is_used_up(self) -> bool:
        return self._nodes <= 0 or self._bytes <= 0 or monotonic() > self._until


Form = Callable[[Walk, Any, int], Any]  # (walk, value, depth) -> what stands for it


def integer(value: int) -> int | str:
    """Return an integer as JSON has it, exactly; beyond 64 bits as text."""
    value = int.__int__(value)
    return value if -(1 << 63) <= value < 1 << 64 else digits(value)


def floating(value: float) -> float | str:
    """Return a float; what JSON has no number for as the name that JavaScript gives it."""
    value = float.__float__(value)
    if value - value == 0.0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124


def _is_small(value: Any) -> bool:
    kind = class_of(value)
    return value is None or kind is int or kind is bool or (kind is str and len(value) <= SMALL)


def _unused(name: str, key: Any, found: dict[str, Any], again: dict[str, int]) -> str:
    # `{1: …, "1": …}`: no member may hide another, no JSON key may come twice
    if name not in found:
        return name
    base = f"{name} ({qualname_of(class_of(key))}"
    while True:
        number = again[base] = again.get(base, 0) + 1
        name = f"{base})" if number == 1 else f"{base} {number})"
        if name not in found:
            return name
