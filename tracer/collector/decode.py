"""Bodies to structures: msgspec reads, `check.problems` says what is wrong with what it refuses."""

from __future__ import annotations

import re
from itertools import accumulate, islice
from typing import Annotated, Any, Literal, get_args, get_origin, is_typeddict

import msgspec

from tracer.check import problems
from tracer.collector.store import RefusedError
from tracer.schema import fields_of, json_schema, required_of

__all__ = ["Decoder", "object_text"]

MAX_DEPTH = 500  # SQLite reads 1,000 levels, Python's json fewer; orjson refuses 254
EXPLAINED_BYTES = 4 << 20  # explaining builds every value; beyond this msgspec's words must do
PROBLEMS_SHOWN = 3
# Names of earlier versions of the API; people still have them in their programs.
LEGACY = {
    "is_single_session": "single_session",
    "session": "session_properties",
    "project": "project_id",
}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[^\[\]{}]+")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
_KINDS = {"[": "an array", '"': "a string", "n": "null", "t": "a boolean", "f": "a boolean"}


class Decoder:
    """Reads bodies of one record of `tracer.schema` into structures.

    Unknown fields are refused, payload objects stay the bytes that came. The fields named in
    `lenient` take any value: the server has something to fall back on.
    """

    def __init__(self, record: type, lenient: frozenset[str] = frozenset()) -> None:
        self._decoder = msgspec.json.Decoder(_struct(record, lenient))
        schema = json_schema(record)
        properties: dict[str, Any] = {
            n: {} if n in lenient else s for n, s in schema["properties"].items()
        }
        self._schema = {**schema, "properties": properties}

    def decode(self, body: bytes) -> Any:
        """Return the structure. Raises: RefusedError: 400, what is wrong, where, what is allowed."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise RefusedError(400, self._explain(body) or str(error)) from error
        except RecursionError as error:
            raise RefusedError(400, "the body is nested too deeply") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RefusedError(400, f"the body is not valid JSON in UTF-8: {error}") from error

    def _explain(self, body: bytes) -> str:
        if len(body) > EXPLAINED_BYTES:
            return ""
        try:
            found = problems(msgspec.json.decode(body), self._schema)
            return "; ".join(f"{p}{_hint(p)}" for p in islice(found, PROBLEMS_SHOWN))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""  # msgspec stopped at what it refused first; the rest may be no JSON at all


def object_text(raw: Any, where: str, name: str) -> str | None:
    """Return the JSON text of a payload field, None when it was not given.

    Raises: RefusedError: 400, it is no object, no UTF-8 or nested too deeply.
    """
    if raw is None:
        return None
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"{where}{name} is not valid UTF-8: {error.reason}") from error
    if not text.startswith("{"):
        raise RefusedError(
            400, f"{where}{name} must be an object, not {_KINDS.get(text[0], 'a number')}"
        )
    # Two characters a level: short texts, nearly all, need no count.
    if len(text) > 2 * MAX_DEPTH and _too_deep(text):
        raise RefusedError(400, f"{where}{name} is nested more than {MAX_DEPTH} levels deep")
    return text


def _too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    brackets = _BRACKET.sub("", _STRING.sub("", text))
    return any(depth > MAX_DEPTH for depth in accumulate(map(_STEP.__getitem__, brackets)))


def _hint(problem: str) -> str:
    named = re.search(r"unknown field '(\w+)'", problem)
    new = LEGACY.get(named[1]) if named else None
    return f" ({named[1]!r} was an earlier name of {new})" if named and new else ""


def _struct(record: type, lenient: frozenset[str] = frozenset()) -> type[msgspec.Struct]:
    required = required_of(record)
    fields: list[Any] = []
    for name, hint in fields_of(record).items():
        kind = Any if name in lenient else _kind(hint)
        fields.append((name, kind) if name in required else (name, kind, None))
    return msgspec.defstruct(
        record.__name__, fields, kw_only=True, forbid_unknown_fields=True, gc=False
    )


def _kind(hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is dict:
        return msgspec.Raw
    if origin is list:
        return list[_kind(arguments[0])]  # type: ignore[misc]  # made at run time
    if origin is Literal or not is_typeddict(hint):
        return hint
    return _struct(hint)
