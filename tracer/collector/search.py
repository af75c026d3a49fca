"""A search as SQL: column names of ours, everything from the request as a bound parameter."""

from __future__ import annotations

from typing import Any

from tracer.collector.store import IDS, OBJECTS, Condition, Search, id_key

__all__ = ["compile_search"]

_JSON = frozenset((*OBJECTS, "children_ids"))
_SYMBOLS = {"greater than": ">", "less than": "<", "after": ">", "before": "<"}
_Sql = tuple[str, list[Any]]


def compile_search(search: Search) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a search, empty without conditions, and its parameters."""
    # Without statistics SQLite takes any index that fits; beside an id the one of event_type,
    # which matches a third of all rows, must not be it. A unary plus keeps it from being used.
    selective = any(c.column in IDS and c.operator == "is" for c in search.conditions)
    parts = [_condition(c, selective=selective) for c in search.conditions]
    if search.since_ms is not None:
        parts.append(("start_time >= ?", [search.since_ms]))
    if search.until_ms is not None:
        parts.append(("start_time <= ?", [search.until_ms]))
    if not parts:
        return "", []
    clause = " AND ".join(f"({sql})" for sql, _ in parts)
    return f"WHERE {clause}", [value for _, values in parts for value in values]


def _condition(c: Condition, *, selective: bool) -> _Sql:
    if c.operator in ("exists", "not exists"):
        sql, values = _exists(c)
    elif c.operator in ("contains", "not contains"):
        sql, values = _contains(c)
    elif c.column in _JSON:
        sql, values = _compare_json(c)
    else:
        sql, values = _compare_column(c)
    if c.operator.startswith("not ") or c.operator == "is not":
        return f"NOT coalesce({sql}, 0)", values  # what is not there is not equal either
    if selective and c.column == "event_type":
        sql = "+" + sql
    return sql, values


def _exists(c: Condition) -> _Sql:
    if not c.path:
        return f"{c.column} IS NOT NULL", []
    kind, values = _inside("json_type", c)
    return f"coalesce({kind}, 'null') <> 'null'", values


def _contains(c: Condition) -> _Sql:
    text, values = _text(c)
    return f"instr({text}, ?) > 0", [*values, c.value]


def _text(c: Condition) -> _Sql:
    if c.path:
        return _inside("json_extract", c)
    return (_id_text(c.column) if c.column in IDS else c.column), []


def _compare_column(c: Condition) -> _Sql:
    symbol = _SYMBOLS.get(c.operator, "=")
    if c.column in IDS and symbol == "=":
        return f"{c.column} = ?", [id_key(c.value) or c.value]
    left, _ = _text(c)
    return f"{left} {symbol} ?", [c.value]


def _compare_json(c: Condition) -> _Sql:
    symbol = _SYMBOLS.get(c.operator, "=")
    if not c.path:  # a whole object, as the text it was received in
        return f"{c.column} {symbol} ?", [c.value]
    kind, kind_values = _inside("json_type", c)
    if c.type == "boolean":
        return f"{kind} = ?", [*kind_values, "true" if c.value else "false"]
    found, found_values = _inside("json_extract", c)
    if c.type == "datetime":
        # julianday reads ISO 8601; its fraction of a day is good to less than a millisecond.
        moment = (
            f"CASE WHEN {kind} IN ('integer', 'real') THEN {found} "
            f"WHEN {kind} = 'text' THEN round((julianday({found}) - 2440587.5) * 86400000) END"
        )
        return f"{moment} {symbol} ?", [
            *kind_values, *found_values, *kind_values, *found_values, c.value
        ]  # fmt: skip
    kinds = "('integer', 'real')" if c.type == "number" else "('text')"
    return f"{kind} IN {kinds} AND {found} {symbol} ?", [*kind_values, *found_values, c.value]


def _inside(function: str, c: Condition) -> _Sql:
    """Apply a JSON function at the path; a number in it is an index, or else a key."""
    keys = "$" + "".join(f'."{part}"' for part in c.path)
    if not any(part.isdecimal() for part in c.path):
        return f"{function}({c.column}, ?)", [keys]
    mixed = "$" + "".join(f"[{part}]" if part.isdecimal() else f'."{part}"' for part in c.path)
    calls = f"{function}({c.column}, ?)"
    return f"coalesce({calls}, {calls})", [mixed, keys]


def _id_text(column: str) -> str:
    digits = f"lower(hex({column}))"
    bounds = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    dashed = " || '-' || ".join(f"substr({digits}, {at}, {n})" for at, n in bounds)
    return f"CASE typeof({column}) WHEN 'blob' THEN {dashed} ELSE {column} END"
