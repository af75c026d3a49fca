"""Look at an object without running code of its class.

`getattr`, `isinstance`, `repr`, `hash` and `==` all ask the class, and a class of the program may
answer with anything: a loop, an exception, a query to its database. What is here reads through
descriptors that CPython itself made, so the answer is the memory of the object and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from types import GetSetDescriptorType, MemberDescriptorType, WrapperDescriptorType
from typing import Any, cast

__all__ = [
    "MISSING",
    "attribute",
    "bases_of",
    "class_of",
    "clean",
    "declared",
    "digits",
    "entries_of",
    "first",
    "members_of",
    "name_of",
    "own",
    "qualname_of",
    "shown",
]

MISSING = object()
REPR_LENGTH = 1000  # characters of one repr
SHOWN_ITEMS = 6  # items of a container in a repr
SHOWN_LEVELS = 3  # containers inside containers in a repr
DECIMAL_BITS = 2100  # no setting of `sys.set_int_max_str_digits` refuses an integer this short
HEX_BITS = 20_000  # beyond it the head is kept: 1,000 hexadecimal digits
TRIES = 3  # at reading a container that changes
HAVE_GC = 1 << 14  # Py_TPFLAGS_HAVE_GC: instances may hold other objects

_Get = Callable[[Any], Any]
class_of: _Get = type  # `type` itself, but to type checkers the class of anything is Any
# `type.__dict__[…]`, because a metaclass may answer for `kind.__mro__` and its like
bases_of = cast("Callable[[Any], tuple[Any, ...]]", type.__dict__["__mro__"].__get__)
members_of = cast("Callable[[Any], Mapping[str, Any]]", type.__dict__["__dict__"].__get__)
_flags_of = cast("Callable[[Any], int]", type.__dict__["__flags__"].__get__)
entries_of = cast(_Get, cast(Any, dict).items)  # of a subclass too, whatever it overrides
_module_of = cast(_Get, type.__dict__["__module__"].__get__)
_qualname_of = cast(_Get, type.__dict__["__qualname__"].__get__)
_arguments_of = cast(_Get, BaseException.__dict__["args"].__get__)
# by id: a metaclass may answer for the hash and the equality of its classes
_PLAIN_REPR = frozenset(map(id, (bool, float, complex, type(None), type(...))))
_CONTAINERS = frozenset(map(id, (tuple, list, set, frozenset, dict)))


def first(read: Callable[[Any], Any], value: Any, most: int) -> list[Any]:
    """Return a list of at most `most` of what `read(value)` gives.

    The iterator is made and used up inside one call of `list`: no thread runs between the two,
    and nothing is compared or hashed, as a copy of a dict or set may do.
    """
    for _ in range(TRIES):
        try:
            return list(islice(chain.from_iterable(map(read, (value,))), most))
        except RuntimeError:  # changed all the same: by a finalizer, where collecting runs here
            continue
    return []


def clean(text: str) -> str:
    """Return `text` as an exact str that UTF-8 can carry: a lone surrogate becomes `\\ud800`."""
    if str.isascii(text):
        return str.__str__(text)
    return str.encode(text, "utf-8", "backslashreplace").decode()


def qualname_of(kind: Any) -> str:
    """Return the qualified name of a class."""
    return clean(_qualname_of(kind))


def name_of(kind: Any) -> str:
    """Return `module.Qualname` of a class."""
    module = _module_of(kind)
    return f"{clean(module)}.{qualname_of(kind)}" if class_of(module) is str else qualname_of(kind)


def declared(kind: Any, name: str) -> Any:
    """Return what a class or its bases hold under `name`, unbound, or MISSING."""
    for base in bases_of(kind):
        found = members_of(base).get(name, MISSING)
        if found is not MISSING:
            return found
    return MISSING


def _instance_dict(value: Any) -> Any:
    kind = class_of(value)
    for base in bases_of(kind):
        member = members_of(base).get("__dict__", MISSING)
        # made by CPython: of modules the one, else the other; a property of this name is passed over
        if class_of(member) is GetSetDescriptorType or class_of(member) is MemberDescriptorType:
            found = member.__get__(value, kind)
            return found if issubclass(class_of(found), dict) else None
    return None


def attribute(value: Any, name: str) -> Any:
    """Return what an instance itself holds under `name`, or MISSING."""
    inside = _instance_dict(value)
    if inside is not None:
        found = cast(Any, dict).get(inside, name, MISSING)
        if found is not MISSING:
            return found
    kind = class_of(value)
    member = declared(kind, name)
    if class_of(member) is MemberDescriptorType:
        try:
            return MemberDescriptorType.__get__(member, value, kind)
        except AttributeError:  # a slot that is not set
            return MISSING
    return MISSING


def own(value: Any, most: int) -> list[tuple[str, Any]]:
    """Return the public attributes an instance itself holds, at most `most`: dict, then slots."""
    inside = _instance_dict(value)
    pairs = [] if inside is None else first(entries_of, inside, most)
    found: list[tuple[str, Any]] = [(name, item) for name, item in pairs if _is_public(name)]
    kind = class_of(value)
    for base in bases_of(kind):
        members = members_of(base)
        if "__slots__" in members:
            for name, member in list(members.items()):
                if class_of(member) is MemberDescriptorType and _is_public(name):
                    item = attribute(value, name)
                    if item is not MISSING:
                        found.append((name, item))
    return found[:most]


def _is_public(name: Any) -> bool:
    return class_of(name) is str and name[:1] != "_"


def digits(number: int) -> str:
    """Return an integer without loss while it is short, else its size and its head.

    Decimal text takes quadratic time and is refused beyond `sys.get_int_max_str_digits()`;
    hexadecimal text is neither.
    """
    number = int.__int__(number)
    bits = number.bit_length()
    if bits <= DECIMAL_BITS:
        return str(number)
    if bits <= HEX_BITS:
        return hex(number)
    return f"{hex(number >> (bits - 4000))}… ({bits} bits)"


def shown(value: Any, levels: int = SHOWN_LEVELS) -> str:
    """Return one line about any object: as `repr` has it where `repr` runs no code of a class."""
    return clean(_shown(value, levels))[:REPR_LENGTH]


def _shown(value: Any, levels: int) -> str:
    kind = class_of(value)
    if kind is str or kind is bytes:
        return repr(value[:REPR_LENGTH])
    if kind is int:
        return digits(value)
    if id(kind) in _PLAIN_REPR:
        return repr(value)
    if id(kind) in _CONTAINERS:
        return _container(value, kind, levels)
    if issubclass(kind, BaseException):
        name = qualname_of(kind)
        arguments = _arguments_of(value)
        return f"{name}({_joined(arguments, len(arguments), levels)})"
    if issubclass(kind, type):
        return f"<class '{name_of(value)}'>"
    if not _flags_of(kind) & HAVE_GC:
        # written in C (or without any attribute) and holding no objects: its repr, where C wrote
        # that too, has nobody to call
        written = declared(kind, "__repr__")
        if class_of(written) is WrapperDescriptorType and written.__objclass__ is not object:
            try:
                return repr(value)[:REPR_LENGTH]
            except Exception:  # noqa: BLE001, S110 - a library's own mistake
                pass
    return f"<{qualname_of(kind)} object>"


def _container(value: Any, kind: Any, levels: int) -> str:
    count = len(value)
    if kind is dict:
        pairs = first(entries_of, value, SHOWN_ITEMS) if levels else []
        texts = [f"{_shown(k, levels - 1)}: {_shown(v, levels - 1)}" for k, v in pairs]
        inner = ", ".join(texts + ["…"] * (count > len(texts)))
        return f"{{{inner}}}"
    inner = _joined(value, count, levels)
    if kind is list:
        return f"[{inner}]"
    if kind is tuple:
        return f"({inner},)" if count == 1 else f"({inner})"
    text = f"{{{inner}}}" if count else "set()"
    return text if kind is set else f"frozenset({text if count else ''})"


def _joined(items: Any, count: int, levels: int) -> str:
    some = first(iter, items, SHOWN_ITEMS) if levels else []
    texts = [_shown(item, levels - 1) for item in some]
    return ", ".join(texts + ["…"] * (count > len(texts)))
