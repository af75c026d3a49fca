"""The body of `POST /v1/events/search` to a `Search`: every value checked and converted."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from typing import Any

from tracer.collector.decode import Decoder
from tracer.collector.store import COLUMNS, NUMBERS, OBJECTS, Condition, RefusedError, Search
from tracer.schema import MAX_SEARCH_LIMIT, SEARCH_LIMIT, SearchRequest

__all__ = ["search_request"]

MAX_FILTERS = 50
MAX_PAGE = 1_000_000
_PRESENCE = ("exists", "not exists")
_CONTAINS = ("contains", "not contains")
_ORDER = ("greater than", "less than")
_MOMENT = ("after", "before")
_TIMES = ("start_time", "end_time")
_request = Decoder(SearchRequest)


def search_request(body: bytes) -> Search:
    """Read the request. Raises: RefusedError: 400, which part of it is wrong and what is allowed."""
    found = _request.decode(body)
    limit = _bounded("limit", found.limit, SEARCH_LIMIT, MAX_SEARCH_LIMIT)
    page = _bounded("page", found.page, 1, MAX_PAGE)
    filters: list[Any] = found.filters or []
    if len(filters) > MAX_FILTERS:
        raise RefusedError(400, f"filters must be {MAX_FILTERS} at most, not {len(filters)}")
    conditions = tuple(_condition(f, f"filters[{i}]") for i, f in enumerate(filters))
    since = until = None
    if found.dateRange is not None:
        since = _optional_time(found.dateRange.start_time, "dateRange.start_time")
        until = _optional_time(found.dateRange.end_time, "dateRange.end_time")
    return Search(conditions, since, until, limit, page)


def _bounded(name: str, value: int | None, default: int, most: int) -> int:
    if value is None:
        return default
    if not 1 <= value <= most:
        raise RefusedError(400, f"{name} must be from 1 to {most:,}, not {value}")
    return value


def _condition(found: Any, where: str) -> Condition:
    column, *path = found.field.split(".")
    if column not in COLUMNS:
        allowed = ", ".join(COLUMNS)
        raise RefusedError(400, f"{where}.field must begin with one of {allowed}, not {column!r}")
    if path and column not in (*OBJECTS, "children_ids"):
        raise RefusedError(
            400, f"{where}.field: {column} holds one value, there is no path inside it"
        )
    if any(part == "" or '"' in part for part in path):
        raise RefusedError(
            400, f'{where}.field: the parts of a path must be neither empty nor hold "'
        )
    operator = found.operator
    if operator in _PRESENCE:
        return Condition(column, tuple(path), operator, None, "string")
    kind = found.type or _implied(column, operator, found.value, where)
    _check_operator(operator, kind, where)
    if column in NUMBERS:
        if kind not in ("number", "datetime") or (kind == "datetime" and column not in _TIMES):
            raise RefusedError(400, f"{where}: {column} holds a number, compare it as one")
    elif (column not in OBJECTS or not path) and column != "children_ids" and kind != "string":
        raise RefusedError(400, f"{where}: {found.field} holds text, it cannot be read as a {kind}")
    return Condition(column, tuple(path), operator, _converted(kind, found.value, where), kind)


def _implied(column: str, operator: str, value: Any, where: str) -> str:
    """Return the type of a filter that names none: what the operator and the value say."""
    if operator in _MOMENT:
        return "datetime"
    if operator in _CONTAINS:
        return "string"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "datetime" if column in _TIMES else "string"
    raise RefusedError(
        400,
        f"{where}.value must be a string, a number or a boolean; exists and not exists need none",
    )


def _check_operator(operator: str, kind: str, where: str) -> None:
    if operator in _CONTAINS:
        allowed: tuple[str, ...] = ("string",)
    elif operator in _MOMENT:
        allowed = ("datetime",)
    elif operator in _ORDER:
        allowed = ("string", "number", "datetime")
    else:
        return
    if kind not in allowed:
        raise RefusedError(
            400, f"{where}: {operator} compares a {' or '.join(allowed)}, not a {kind}"
        )


def _converted(kind: str, value: Any, where: str) -> Any:
    place = f"{where}.value"
    if kind == "datetime":
        return _time(value, place)
    if kind == "boolean":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if isinstance(value, bool):
            return value
    elif kind == "number":
        number = _number(value)
        if number is not None:
            return number
    elif isinstance(value, str):
        return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise RefusedError(400, f"{place} must be a {kind}, not {value!r}"[:300])


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int) and abs(value) < 1 << 63:  # beyond that SQLite takes no integer
        return value
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _optional_time(value: Any, where: str) -> float | None:
    return None if value is None else _time(value, where)


def _time(value: Any, where: str) -> float:
    """Return Unix milliseconds of an ISO 8601 time, UTC where it names no zone, or of a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return number
    if isinstance(value, str):
        # Python 3.10 reads neither Z nor fractions of other than 3 or 6 digits.
        text = re.sub(r"(?<=\.)\d+", lambda m: m[0][:6].ljust(6, "0"), value.strip())
        text = re.sub(r"[zZ]$", "+00:00", text)
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=timezone.utc)
            return round(moment.timestamp() * 1000, 3)
        except (ValueError, OverflowError):
            pass
    raise RefusedError(
        400, f"{where} must be an ISO 8601 time such as 2026-11-22T17:00:00Z, not {value!r}"[:300]
    )
