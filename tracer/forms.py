"""The stated form of every type of Python and its standard library.

A form is looked up by the bases of a value's class. It reads the value through functions of the
base itself, unbound, so what a class of the program overrides is not run; where the standard
library is written in Python, only values of exactly its own classes are described by it. What
has no form is shown as an unknown object: type, repr, public attributes.
"""

from __future__ import annotations

import builtins
import collections
import sys
import types
import weakref
from binascii import b2a_base64
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from enum import EnumMeta
from gc import get_referents
from hashlib import sha256
from typing import Any, cast
from uuid import UUID

import orjson

from tracer import libraries, named
from tracer.cut import compact
from tracer.look import (
    MISSING,
    attribute,
    bases_of,
    class_of,
    clean,
    declared,
    digits,
    entries_of,
    members_of,
    name_of,
    shown,
)
from tracer.walk import Form, Walk, floating, integer

__all__ = ["form_of"]

_BUILT_IN: Any = builtins  # whose methods are called unbound; to type checkers, Any

MAX_FOUND = 1000  # classes whose form is remembered
SHORT_BYTES = 1024  # bytes whose content is kept; of longer ones size and SHA-256
HASHED_BYTES = 1 << 20  # beyond it no SHA-256: 1 MiB takes up to 2 ms of the caller's time


def form_of(kind: Any) -> Form | None:
    """Return the form of a class, or None for an unknown one."""
    form = _BY_TYPE.get(id(kind))
    if form is not None:
        return form
    known = _found.get(id(kind))
    if known is not None and known[0]() is kind:
        return known[1]
    form = _look_up(kind)
    if len(_found) >= MAX_FOUND:  # classes made at run time have no end
        _found.clear()
    _found[id(kind)] = (weakref.ref(kind), form)
    return form


def _look_up(kind: Any) -> Form | None:
    if issubclass(class_of(kind), EnumMeta):
        return _enum
    for base in bases_of(kind):
        form = _BY_TYPE.get(id(base))
        if form is not None:
            return form
        form = _BY_NAME.get(name_of(base))
        if form is not None and _is_at_home(base):
            return form
        members = members_of(base)
        if "__pydantic_serializer__" in members:
            return libraries.pydantic
        if "__dataclass_fields__" in members:
            return _dataclass
        if "__attrs_attrs__" in members:
            return libraries.attrs
    return None


def _is_at_home(base: Any) -> bool:
    # a class may call its module anything; the module knows its own
    module, _, name = name_of(base).rpartition(".")
    home = sys.modules.get(module)
    return issubclass(class_of(home), types.ModuleType) and attribute(home, name) is base


def _mapping(walk: Walk, value: Any, depth: int) -> Any:
    return walk.object(*walk.few(entries_of, value, _BUILT_IN.dict.__len__(value)), depth)


def _sequence(base: Any) -> Form:
    def form(walk: Walk, value: Any, depth: int) -> Any:
        return walk.array(*walk.few(base.__iter__, value, base.__len__(value)), depth)

    return form


def _tuple(walk: Walk, value: Any, depth: int) -> Any:
    items, total = walk.few(_BUILT_IN.tuple.__iter__, value, _BUILT_IN.tuple.__len__(value))
    names = declared(class_of(value), "_fields")
    if class_of(names) is tuple and len(names) == total and all(class_of(n) is str for n in names):
        return walk.object(zip(names, items), total, depth)  # noqa: B905 - a walk may be short
    return walk.array(items, total, depth)


def _set(walk: Walk, value: Any, depth: int) -> Any:
    own = _BUILT_IN.set if issubclass(class_of(value), set) else _BUILT_IN.frozenset
    found = walk.array(*walk.few(own.__iter__, value, own.__len__(value)), depth)
    # the order of a set changes from process to process
    return [orjson.Fragment(text) for text in sorted(map(compact, found))]


def _chain_map(walk: Walk, value: Any, depth: int) -> Any:
    maps = attribute(value, "maps")
    merged: list[tuple[Any, Any]] = []
    for part in maps if class_of(maps) is list else ():
        if not issubclass(class_of(part), dict):
            return walk.unknown(value, depth)
        merged = walk.few(entries_of, part, _BUILT_IN.dict.__len__(part))[0] + merged
    found: dict[Any, Any] = {}
    for key, item in merged:
        found[key if class_of(key) is str else id(key)] = (key, item)
    return walk.object(found.values(), len(found), depth)


def _proxy(walk: Walk, value: Any, depth: int) -> Any:
    # the mapping behind it, without asking the mapping
    behind = get_referents(value)
    if len(behind) == 1 and issubclass(class_of(behind[0]), dict):
        return _mapping(walk, behind[0], depth)
    return walk.unknown(value, depth)


def _views(walk: Walk, value: Any, depth: int) -> Any:
    behind = get_referents(value)
    if (
        len(behind) == 1 and class_of(behind[0]) is dict
    ):  # an OrderedDict's view runs its own iterator
        return walk.array(*walk.few(iter, value, len(behind[0])), depth)
    return walk.unknown(value, depth)


def _enum(walk: Walk, value: Any, depth: int) -> Any:
    found = attribute(value, "_value_")
    return walk.unknown(value, depth) if found is MISSING else walk.plain(found, depth + 1)


def _dataclass(walk: Walk, value: Any, depth: int) -> Any:
    declared_fields = declared(class_of(value), "__dataclass_fields__")
    pairs: list[tuple[str, Any]] = []
    for name, field in entries_of(declared_fields):
        shows = attribute(field, "repr") is True  # `repr=False` is how a field is kept private
        if shows and class_of(name) is str and name[:1] != "_":
            found = attribute(value, name)
            if found is not MISSING:  # not set, an InitVar, a ClassVar
                pairs.append((name, found))
    return walk.object(pairs, len(pairs), depth)


def _string(walk: Walk, value: Any, depth: int) -> Any:
    return walk.text(str.__str__(value))


def _bytes(walk: Walk, value: Any, depth: int) -> Any:
    own = bytes if issubclass(class_of(value), bytes) else bytearray
    size = own.__len__(value)
    kept = bytes(own.__getitem__(value, slice(0, HASHED_BYTES)))
    return _content(value, size, kept)


def _view(walk: Walk, value: Any, depth: int) -> Any:
    # of other memory, a mapped file for one, no page is touched
    readable = class_of(value.obj) is bytes or class_of(value.obj) is bytearray
    kept = value.tobytes() if readable and value.nbytes <= HASHED_BYTES else b""
    return _content(value, value.nbytes, kept)


def _content(value: Any, size: int, kept: bytes) -> dict[str, Any]:
    found = {"__type__": name_of(class_of(value)), "bytes": size}
    if len(kept) < size:
        return found
    if size > SHORT_BYTES:
        return {**found, "sha256": sha256(kept).hexdigest()}
    try:
        return {**found, "text": kept.decode()}
    except UnicodeDecodeError:
        return {**found, "base64": b2a_base64(kept, newline=False).decode()}


def _datetime(walk: Walk, value: Any, depth: int) -> Any:
    zone: Any = cast(Any, datetime.tzinfo).__get__(value)
    naive = datetime.combine(datetime.date(value), datetime.time(value))
    if zone is None:
        return naive.isoformat()
    if _keeps_quiet(zone):
        fold = cast(Any, datetime.fold).__get__(value)
        return naive.replace(tzinfo=zone, fold=fold).isoformat()
    return {"__type__": name_of(class_of(value)), "local": naive.isoformat(), "zone": shown(zone)}


def _time(walk: Walk, value: Any, depth: int) -> Any:
    get = cast(Any, time.tzinfo).__get__
    zone = get(value)
    if zone is None or class_of(zone) is timezone:
        return time.isoformat(value)
    names = (time.hour, time.minute, time.second, time.microsecond)
    hour, minute, second, micros = (cast(Any, part).__get__(value) for part in names)
    local = time(hour, minute, second, micros).isoformat()
    return {"__type__": name_of(class_of(value)), "local": local, "zone": shown(zone)}


def _keeps_quiet(zone: Any) -> bool:
    """Return whether an offset can be asked of a zone: none but known ones run our program."""
    name = name_of(class_of(zone))
    if name.startswith(("pytz.", "dateutil.tz.")):  # both make classes at run time
        return name.partition(".")[0] in sys.modules
    return class_of(zone) is timezone or (
        name == "zoneinfo.ZoneInfo" and _is_at_home(class_of(zone))
    )


def _date(walk: Walk, value: Any, depth: int) -> Any:
    return date.isoformat(value)


def _duration(walk: Walk, value: Any, depth: int) -> Any:
    """Return a duration as ISO 8601 has it, the form that Pydantic writes."""
    days, seconds, micros = (
        cast(Any, part).__get__(value)
        for part in (timedelta.days, timedelta.seconds, timedelta.microseconds)
    )
    total = (days * 86_400 + seconds) * 1_000_000 + micros
    sign, total = ("-", -total) if total < 0 else ("", total)
    days, rest = divmod(total, 86_400_000_000)
    seconds, micros = divmod(rest, 1_000_000)
    fraction = f".{micros:06}" if micros else ""
    return f"{sign}P{days}DT{seconds}{fraction}S"


def _zone(walk: Walk, value: Any, depth: int) -> Any:
    if class_of(value) is timezone:
        return str(value)
    found = value.key if _keeps_quiet(value) else None
    return found if class_of(found) is str else walk.unknown(value, depth)


def _uuid(walk: Walk, value: Any, depth: int) -> Any:
    number = attribute(value, "int")
    return str(UUID(int=number)) if class_of(number) is int else walk.unknown(value, depth)


def _decimal(walk: Walk, value: Any, depth: int) -> Any:
    return walk.text(sys.modules["decimal"].Decimal.__str__(value))


def _fraction(walk: Walk, value: Any, depth: int) -> Any:
    above, below = attribute(value, "_numerator"), attribute(value, "_denominator")
    if class_of(above) is int and class_of(below) is int:
        return f"{digits(above)}/{digits(below)}"
    return walk.unknown(value, depth)


def _by_its_own_text(walk: Walk, value: Any, depth: int) -> Any:
    """Describe values of classes the standard library writes in Python; not of their subclasses."""
    kind = class_of(value)
    exact = name_of(kind) in _BY_NAME and _is_at_home(kind)
    return walk.text(clean(str(value))) if exact else walk.unknown(value, depth)


def _numbers(walk: Walk, value: Any, depth: int) -> Any:
    array = sys.modules["array"].array
    return walk.array(*walk.few(array.__iter__, value, array.__len__(value)), depth)


_BY_TYPE: dict[int, Form] = {}
# By id, and weakly: a metaclass may answer for the hash of a class, and we keep none alive.
_found: dict[int, tuple[weakref.ref[Any], Form | None]] = {}
_empty: dict[str, str] = {}
# Kept by name, so that nothing is imported for it; what claims a name is checked in `_is_at_home`.
_BY_NAME: dict[str, Form] = {
    "decimal.Decimal": _decimal,
    "fractions.Fraction": _fraction,
    "array.array": _numbers,
    **named.BY_NAME,
    **libraries.FORMS,
}
for _name in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
    _BY_NAME[f"pathlib.{_name}"] = _BY_NAME[f"pathlib._local.{_name}"] = _by_its_own_text
for _name in ("Address", "Network", "Interface"):
    _BY_NAME[f"ipaddress.IPv4{_name}"] = _BY_NAME[f"ipaddress.IPv6{_name}"] = _by_its_own_text


def _state(form: Form, *kinds: Any) -> None:
    for kind in kinds:
        _BY_TYPE[id(kind)] = form


_state(_mapping, dict)
_state(_sequence(list), list)
_state(_sequence(collections.deque), collections.deque)
_state(_tuple, tuple)
_state(_set, set, frozenset)
_state(_chain_map, collections.ChainMap)
_state(_proxy, types.MappingProxyType)
_state(_views, *map(type, (_empty.keys(), _empty.values(), _empty.items())))
_state(_string, str)
_state(_bytes, bytes, bytearray)
_state(_view, memoryview)
_state(lambda walk, value, depth: integer(value), int)
_state(lambda walk, value, depth: floating(value), float)
_state(lambda walk, value, depth: complex.__repr__(value), complex)
_state(_datetime, datetime)
_state(_date, date)
_state(_time, time)
_state(_duration, timedelta)
_state(_zone, tzinfo)
_state(_uuid, UUID)
for _form, *_kinds in named.BY_TYPE:
    _state(_form, *_kinds)
