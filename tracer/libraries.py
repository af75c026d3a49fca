"""The stated form of the types of well-known libraries, none of which is imported here.

A value of theirs can exist only where the program imported the library, so it is in `sys.modules`.
Their own code is trusted to describe their own classes; subclasses are read through the base.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any, cast

import orjson

from tracer.context import CURRENT, OwnWork, restore
from tracer.look import MISSING, attribute, class_of, clean, declared, name_of, own, shown
from tracer.walk import Form, Walk

__all__ = ["FORMS", "attrs", "pydantic"]

ARRAY_ITEMS = 4096  # numbers of an array that are kept: an embedding is, an image is not
HEAD = 8  # numbers kept of a larger one
ROWS = 5  # of a table
COLUMNS = 50  # of a table
MASK = "**********"  # what Pydantic itself shows of a secret


def pydantic(walk: Walk, value: Any, depth: int) -> Any:
    """Describe a model or dataclass of Pydantic 2 as its class says.

    This alone runs code of the program: serializers and computed fields are what its author chose
    to show, and the only way to mask what he masks. It records nothing meanwhile.
    """
    serializer = declared(class_of(value), "__pydantic_serializer__")
    core = sys.modules.get("pydantic_core")
    if core is None or class_of(serializer) is not core.SchemaSerializer or _is_bulky(walk, value):
        return _pydantic_fields(walk, value, depth)

    def stand_in(inner: Any) -> Any:
        return orjson.loads(orjson.dumps(walk.plain(inner, depth + 1)))

    quiet = OwnWork(CURRENT.get())
    CURRENT.set(quiet)
    try:
        # not `to_json`, which hides an interrupt inside its text and writes null for NaN
        found = serializer.to_python(value, mode="json", warnings=False, fallback=stand_in)
    except Exception as error:  # noqa: BLE001 - a serializer of the program may raise anything
        cause = error.__cause__
        while cause is not None:
            if not isinstance(cause, Exception):  # KeyboardInterrupt, wrapped by pydantic-core
                raise cause from None
            cause = cause.__cause__
        return _pydantic_fields(walk, value, depth)
    finally:
        quiet.ended = True
        restore(quiet)
    return walk.plain(found, depth + 1)


def _is_bulky(walk: Walk, value: Any) -> bool:
    # a serializer knows no bound: what is certainly too large is cut by the walk instead
    return any(
        id(class_of(part)) in _SIZED and len(part) > walk.max_bytes // 2
        for _, part in own(value, 1000)
    )


def _pydantic_fields(walk: Walk, value: Any, depth: int) -> Any:
    """Describe a model of Pydantic 1, or one of 2 whose serializer fails, field by field."""
    kind = class_of(value)
    fields: Any = MISSING
    for name in ("__pydantic_fields__", "model_fields", "__fields__"):
        fields = declared(kind, name) if class_of(fields) is not dict else fields
    if class_of(fields) is not dict:
        return walk.unknown(value, depth)
    pairs: list[tuple[str, Any]] = []
    for name, field in list(fields.items()):
        info = attribute(field, "field_info")  # Pydantic 1 keeps it one level down
        info = field if info is MISSING else info
        found = attribute(value, name)
        if found is MISSING or attribute(info, "repr") is not True:
            continue
        if attribute(info, "exclude") is None or attribute(info, "exclude") is False:
            pairs.append((name, found))
    return walk.object(pairs, len(pairs), depth)


def _secret(walk: Walk, value: Any, depth: int) -> Any:
    return MASK


def attrs(walk: Walk, value: Any, depth: int) -> Any:
    """Describe an instance of a class of attrs by its public fields, those without repr left out.

    A field with a repr of its own is left out too: the repr may be there to hide something.
    """
    fields = declared(class_of(value), "__attrs_attrs__")
    pairs: list[tuple[str, Any]] = []
    for field in cast(Any, tuple).__iter__(fields):
        name = attribute(field, "name")
        if class_of(name) is str and name[:1] != "_" and attribute(field, "repr") is True:
            found = attribute(value, name)
            if found is not MISSING:
                pairs.append((name, found))
    return walk.object(pairs, len(pairs), depth)


def _array(walk: Walk, value: Any, depth: int) -> Any:
    numpy = sys.modules["numpy"]
    exact = class_of(value) is numpy.ndarray
    read = {
        name: getattr(numpy.ndarray, name).__get__(value) for name in ("shape", "size", "dtype")
    }
    if read["size"] <= ARRAY_ITEMS and not issubclass(class_of(value), numpy.memmap):
        if read["dtype"].kind == "M":  # as a list, nanoseconds are integers of unknown meaning
            value = numpy.ndarray.astype(value, "U")
        return walk.plain(numpy.ndarray.tolist(value), depth + 1)
    found: dict[str, Any] = {
        "__type__": name_of(class_of(value)),
        "shape": list(read["shape"]),
        "dtype": clean(str(read["dtype"])),
        "bytes": int(numpy.ndarray.nbytes.__get__(value)),
    }
    if exact and not read["dtype"].hasobject:
        found["head"] = walk.plain(value.flat[:HEAD].tolist(), depth + 1)
    return found


def _number(walk: Walk, value: Any, depth: int) -> Any:
    generic = sys.modules["numpy"].generic
    found = generic.item(value) if generic.dtype.__get__(value).kind not in "mM" else value
    if class_of(found) is class_of(value):  # a date, a duration, a float wider than Python's
        return walk.text(clean(str(value)))
    return walk.plain(found, depth + 1)


def _table(walk: Walk, value: Any, depth: int) -> Any:
    found: dict[str, Any] = {
        "__type__": name_of(class_of(value)),
        "shape": [int(n) for n in value.shape],
    }
    if class_of(value) is not sys.modules["pandas"].DataFrame:
        return found
    began = monotonic()
    head = value.iloc[:ROWS, :COLUMNS]
    split = head.to_dict("split")
    walk.grant(monotonic() - began)  # the first time in a process it takes 20 ms
    found["columns"] = walk.plain(split["columns"], depth + 1)
    found["dtypes"] = [clean(str(kind)) for kind in head.dtypes]
    found["rows"] = walk.plain(split["data"], depth + 1)
    return found


def _column(walk: Walk, value: Any, depth: int) -> Any:
    found: dict[str, Any] = {
        "__type__": name_of(class_of(value)),
        "shape": [int(n) for n in value.shape],
    }
    pandas = sys.modules["pandas"]
    if class_of(value) is pandas.Series:
        found["name"] = walk.plain(value.name, depth + 1)
        found["dtype"] = clean(str(value.dtype))
        found["head"] = walk.plain(value.iloc[:ROWS].tolist(), depth + 1)
    return found


def _text(walk: Walk, value: Any, depth: int) -> Any:
    return walk.text(clean(str(value)))


def _moment(walk: Walk, value: Any, depth: int) -> Any:
    return walk.text(clean(value.isoformat()))  # of `datetime` itself it would lose nanoseconds


def _tensor(walk: Walk, value: Any, depth: int) -> Any:
    """Describe a tensor without its numbers: they may be on another device, or not computed yet."""
    if name_of(class_of(value)) not in FORMS:  # a subclass may answer for every attribute
        return {"__type__": name_of(class_of(value)), "repr": shown(value)}
    return {
        "__type__": name_of(class_of(value)),
        "shape": [int(n) for n in value.shape],
        "dtype": clean(str(value.dtype)),
        "device": clean(str(value.device)),
    }


def _image(walk: Walk, value: Any, depth: int) -> Any:
    """Describe an image of Pillow; a file that is not read yet stays unread."""
    found: dict[str, Any] = {"__type__": name_of(class_of(value))}
    for name, place in (("size", "_size"), ("mode", "_mode"), ("mode", "mode")):
        inside = attribute(value, place)
        if inside is not MISSING:
            found[name] = walk.plain(inside, depth + 1)
    return found


_SIZED = frozenset(map(id, (str, bytes, list, dict)))

# by the name of a base class; whether the class is the one of that name is checked by the caller
FORMS: dict[str, Form] = {
    "numpy.ndarray": _array,
    "numpy.generic": _number,
    "torch.Tensor": _tensor,
    "PIL.Image.Image": _image,
    "torch.nn.parameter.Parameter": _tensor,
}
for _module in ("pydantic.types", "pydantic.v1.types"):
    for _name in ("SecretStr", "SecretBytes", "_SecretBase"):
        FORMS[f"{_module}.{_name}"] = _secret
for _module in ("pydantic.main", "pydantic.v1.main"):
    FORMS[f"{_module}.BaseModel"] = _pydantic_fields
# pandas 3 names its classes by where they are used, pandas 2 by where they are written
for _name, _inside, _form in (
    ("DataFrame", "core.frame", _table),
    ("Series", "core.series", _column),
    ("Index", "core.indexes.base", _column),
    ("Timestamp", "_libs.tslibs.timestamps", _moment),
    ("Timedelta", "_libs.tslibs.timedeltas", _text),
    ("NaTType", "_libs.tslibs.nattype", _text),
    ("NAType", "_libs.missing", _text),
):
    FORMS[f"pandas.{_name}"] = FORMS[f"pandas.api.typing.{_name}"] = FORMS[
        f"pandas.{_inside}.{_name}"
    ] = _form
