"""What is wrong with a value, said so that a person can mend it: where, what, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any, TypeGuard

__all__ = ["problems"]

JsonObject = dict[str, Any]


def problems(value: Any, schema: JsonObject, where: str = "") -> Iterator[str]:
    """Yield what is wrong with `value`: where, what was found, what is allowed.

    Understands the JSON Schemas that schema.py makes and no others.
    """
    place = where or "the request"
    allowed = schema.get("type")
    if allowed is None:
        return
    names: list[str] = [allowed] if isinstance(allowed, str) else allowed
    if _json_type(value) not in names and not (
        "number" in names and _json_type(value) == "integer"
    ):
        yield f"{place} must be {_spoken(names)}, not {_json_type(value)}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{place} must be one of {', '.join(schema['enum'])}, not {_shown(value)}"
    elif _is_list(value):
        for index, item in enumerate(value):
            yield from problems(item, schema["items"], f"{where}[{index}]")
    elif _is_object(value) and "properties" in schema:
        known = schema["properties"]
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{place} lacks the required field {name}"
        for name, item in value.items():
            if name in known:
                yield from problems(item, known[name], f"{where}.{name}" if where else name)
            else:
                yield f"{place} has the unknown field {_shown(name)}; allowed are {', '.join(known)}"


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[JsonObject]:
    return isinstance(value, dict)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # nan and inf, which JSON has no number for
    for kind, name in ((int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object" if isinstance(value, dict) else type(value).__name__


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"  # a message, not the payload


def _spoken(names: list[str]) -> str:
    return " or ".join(
        "null" if n == "null" else f"{'an' if n[0] in 'aeiou' else 'a'} {n}" for n in names
    )
