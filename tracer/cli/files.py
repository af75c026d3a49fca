"""Read a request from a file: JSON, JSON with comments and trailing commas, or YAML."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import click

__all__ = ["MAX_BYTES", "MAX_NODES", "json_value", "read_request"]

MAX_BYTES = 10_000_000  # a batch of 5,000 events of 2 kB; the server takes no more at once either
MAX_NODES = 1_000_000  # values after aliases: nine lines of YAML can stand for 10^9
MAX_DEPTH = 200  # levels; orjson writes 254
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"

# A string, or something that JSON does not know. Each alternative ends at the end of the text at
# the latest, so that no position is looked at twice and 10 MB of quotes take no longer than text.
_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"?'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*[\s\S]*?(?:\*/|\Z)")
_COMMA = re.compile(rf"{_STRING}|[\[{{,]\s*,|,(?=\s*[\]}}])")


def read_request(name: str) -> dict[str, Any]:
    """Return the mapping in a file, or on standard input if `name` is `-`.

    `.yaml` and `.yml` are YAML, everything that begins like JSON is JSON, the rest is YAML.

    Raises: click.BadParameter: what is wrong, with line and column.
    """
    text = _read(name)
    is_yaml = name.endswith((".yaml", ".yml")) or text.lstrip()[:1] not in "{[/"
    value = _from_yaml(name, text) if is_yaml else _from_json(name, text)
    found = _plain(name, value)
    if not _is_dict(found):
        _refuse(name, f"must hold an object with the request's fields, not {_kind(found)}")
    return found


def json_value(name: str, text: str) -> Any:
    """Return the value of a JSON literal given for the flag `name`; no comments here.

    Raises: click.BadParameter: what is wrong, with its position.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else ""
        at = at or f"character {error.colno}"
        raise click.BadParameter(f"no JSON at {at}: {error.msg}", param_hint=name) from None
    except ValueError as error:  # a number of 5,000 digits
        raise click.BadParameter(f"cannot be read: {error}", param_hint=name) from None
    except RecursionError:
        raise click.BadParameter("is nested too deeply", param_hint=name) from None
    try:
        return _plain(name, value)
    except click.BadParameter as error:
        raise click.BadParameter(error.message.removeprefix(f"{name}: "), param_hint=name) from None


def _read(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        _refuse(name, f"cannot be read: {error.strerror or error}")
    except ValueError as error:  # a name with a null byte
        _refuse(name, f"cannot be read: {error}")
    if len(data) > MAX_BYTES:
        _refuse(name, f"is larger than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(name, "is not UTF-8", data.count(b"\n", 0, error.start))


def _from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # Blanks instead of what is taken out keep every line and column where it is.
    bare = _COMMA.sub(_blank_comma, _COMMENT.sub(_blank, text))
    try:
        return json.loads(bare)
    except json.JSONDecodeError as error:
        _refuse(name, error.msg, error.lineno - 1, error.colno - 1)
    except ValueError as error:
        _refuse(name, f"cannot be read: {error}")
    except RecursionError:
        _refuse(name, "is nested too deeply")


def _blank(found: re.Match[str]) -> str:
    text = found[0]
    if text[0] == '"' or (text[1] == "*" and not text.endswith("*/", 2)):
        return text  # a comment without an end stays, to be refused
    return re.sub(r"[^\n]", " ", text)


def _blank_comma(found: re.Match[str]) -> str:
    return " " if found[0] == "," else found[0]


def _from_yaml(name: str, text: str) -> Any:
    import yaml  # here: takes 15 ms, and the commands that only print a schema must not wait

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 10 times as fast
    # Times stay the text they are: JSON has none.
    rules = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in base.yaml_implicit_resolvers.items()
    }
    loader: Any = type("Loader", (base,), {"yaml_implicit_resolvers": rules})
    try:
        _check_size(name, yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader, less the times
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        if "maximum nesting depth" in what:  # libyaml 0.2.6 reads ahead and stops at 1,000 levels
            what = TOO_DEEP
        _refuse(name, what, *((mark.line, mark.column) if mark else ()))
    except yaml.YAMLError as error:
        _refuse(name, " ".join(str(error).split()))
    except ValueError as error:
        _refuse(name, f"cannot be read: {error}")


def _check_size(name: str, events: Any) -> None:
    """Refuse what is too deep, and too many values, aliases counted as what they stand for.

    Before anything is built: PyYAML ends the interpreter on 100,000 levels (6.0.3, libyaml), and
    looks at each level again for every token.
    """
    import yaml  # see _from_yaml

    count = 0
    open_: list[tuple[str | None, int]] = []  # anchor of each open collection, count before it
    sizes: dict[str | None, int] = {}
    for event in events:
        if isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                _refuse_at(name, f"*{event.anchor} stands for itself", event.start_mark)
            count += sizes.get(event.anchor, 0)
        if count > MAX_NODES:
            _refuse_at(name, f"stands for more than {MAX_NODES:,} values", event.start_mark)
        if len(open_) > MAX_DEPTH:
            _refuse_at(name, TOO_DEEP, event.start_mark)


def _plain(name: str, value: Any) -> Any:
    """Return `value` if JSON can say it; what YAML or Python's reader knows beyond is refused."""
    waiting: list[tuple[str, object]] = [("", value)]
    seen: set[int] = set()
    while waiting:
        where, item = waiting.pop()
        if id(item) in seen:
            continue
        if _is_list(item):
            seen.add(id(item))
            waiting += [(f"{where}[{index}]", found) for index, found in enumerate(item)]
        elif _is_dict(item):
            seen.add(id(item))
            for key, found in item.items():
                if not isinstance(key, str):
                    _refuse(name, f"{where or 'the request'}: the key {key!r} must be a string")
                waiting.append((f"{where}.{key}" if where else key, found))
        elif isinstance(item, float) and not math.isfinite(item):
            _refuse(name, f"{where or 'it'} must be a number, not {item}")
        elif item is not None and not isinstance(item, str | int | float):
            _refuse(name, f"{where or 'it'} is {_kind(item)}, which JSON does not know")
    return value


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _kind(value: object) -> str:
    kinds = {"list": "an array", "str": "a string", "bool": "a boolean", "NoneType": "nothing"}
    kinds |= {"int": "a number", "float": "a number"}
    return kinds.get(type(value).__name__, type(value).__name__)


def _refuse_at(name: str, what: str, mark: Any) -> NoReturn:
    _refuse(name, what, mark.line, mark.column)


def _refuse(name: str, what: str, line: int | None = None, column: int | None = None) -> NoReturn:
    shown = "standard input" if name == "-" else click.format_filename(name)
    if line is not None:
        shown += f", line {line + 1}"
    if column is not None:
        shown += f", column {column + 1}"
    raise click.BadParameter(f"{shown}: {what}", param_hint="--filename")
