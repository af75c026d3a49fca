"""`tracer sessions …` and `tracer events …`: one command per operation, made from its schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import click

from tracer.check import problems
from tracer.cli import global_options, show_help
from tracer.cli.files import json_value, read_request
from tracer.config import Connection
from tracer.errors import ConfigError, TransportError
from tracer.schema import OPERATIONS, Operation
from tracer.settings import mask_key
from tracer.version import __version__

__all__ = ["events", "sessions"]

SHOWN_PROBLEMS = 5  # of a bad file the first few say enough
# What a terminal acts on although JSON needs no escape for it: DEL and C1, directions of writing.
_ACTIVE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _group(name: str, help_: str) -> click.Group:
    commands = {
        kebab(operation.name): _command(operation)
        for operation in OPERATIONS
        if operation.group == name
    }
    return click.Group(
        name,
        commands,
        callback=click.pass_context(show_help),
        invoke_without_command=True,
        help=help_,
    )


def kebab(name: str) -> str:
    """Return a field's or an operation's name as the command line spells it."""
    return name.replace("_", "-")


def _command(operation: Operation) -> click.Command:
    schema = operation.flat_schema()
    options: list[click.Parameter] = [
        _option(name, field, required=name in schema.get("required", ()))
        for name, field in schema["properties"].items()
    ]
    options += [
        click.Option(
            ["--filename", "-f"],
            metavar="PATH",
            help="Take the whole request from a JSON, JSON-with-comments or YAML file; "
            "- is standard input.",
        ),
        click.Option(
            ["--show-file-schema"], is_flag=True, help="Print the JSON Schema of that file."
        ),
        click.Option(
            ["--show-argument-schema"],
            metavar="FLAG-NAME",
            help="Print the JSON Schema of one argument's value; its name without the dashes.",
        ),
        *global_options(),
    ]
    return click.Command(
        kebab(operation.name),
        params=options,
        callback=click.pass_context(partial(_run, operation, schema)),
        help=f"{operation.summary}.",
    )


def _option(name: str, field: dict[str, Any], *, required: bool) -> click.Option:
    text = field["description"] + ("  [required]" if required else "")
    kind = _kind(field)
    if kind == "boolean":
        return click.Option([f"--{kebab(name)}/--no-{kebab(name)}"], default=None, help=text)
    metavar = "|".join(field.get("enum", ())) or _METAVARS.get(kind, "TEXT")
    return click.Option([f"--{kebab(name)}"], metavar=metavar, help=text)


def _kind(field: dict[str, Any]) -> str:
    kind: str | list[str] = field["type"]
    return kind if isinstance(kind, str) else kind[0]


def _run(operation: Operation, schema: dict[str, Any], ctx: click.Context, **values: Any) -> None:
    flags = {name: values[name] for name in schema["properties"] if values[name] is not None}
    _check_exclusive(values, flags)
    if values["show_file_schema"]:
        _print(schema)
    elif values["show_argument_schema"] is not None:
        _print(_argument_schema(schema, values["show_argument_schema"]))
    else:
        if values["filename"] is not None:
            fields = _from_file(values["filename"], schema)
        else:
            fields = _from_flags(flags, schema)
        _print(_send(operation, fields, ctx, values))


def _check_exclusive(values: dict[str, Any], flags: dict[str, Any]) -> None:
    modes = ["filename", "show_file_schema", "show_argument_schema"]
    given = [name for name in modes if values[name] not in (None, False)]
    if given and len(given) + len(flags) > 1:
        first, second = [*given, *flags][:2]
        raise click.UsageError(f"--{kebab(first)} and --{kebab(second)} exclude each other")


def _argument_schema(schema: dict[str, Any], flag: str) -> dict[str, Any]:
    known = {kebab(name): field for name, field in schema["properties"].items()}
    if flag not in known:
        raise click.BadParameter(
            f"{flag!r} is no flag of this command; allowed are {', '.join(known)}",
            param_hint="--show-argument-schema",
        )
    field: dict[str, Any] = known[flag]
    return field


def _from_file(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    fields = read_request(name)
    if found := list(islice(problems(fields, schema), SHOWN_PROBLEMS)):
        raise click.BadParameter("; ".join(found), param_hint=f"--filename {name}")
    return fields


def _from_flags(flags: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    missing = [f"--{kebab(name)}" for name in schema.get("required", ()) if name not in flags]
    if missing:
        raise click.UsageError(
            f"missing {' and '.join(missing)}; or give the whole request with --filename"
        )
    fields: dict[str, Any] = {}
    for name, given in flags.items():
        flag, field = f"--{kebab(name)}", schema["properties"][name]
        reader = _READERS.get(_kind(field))
        fields[name] = reader(flag, given) if reader else given
        if found := list(islice(problems(fields[name], field, flag), SHOWN_PROBLEMS)):
            raise click.UsageError("; ".join(found))
    return fields


def _number(flag: str, text: str) -> int | float:
    # Python alone would also take 1_000, nan and inf.
    if re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        value = float(text)
        if math.isfinite(value):
            return value
    raise click.BadParameter(f"must be a number, not {text!r}", param_hint=flag)


_METAVARS = {"number": "NUMBER", "integer": "INTEGER", "array": "JSON", "object": "JSON"}
_READERS: dict[str, Callable[[str, str], Any]] = {
    "number": _number,
    "integer": _number,
    "array": json_value,
    "object": json_value,
}


def _send(
    operation: Operation, fields: dict[str, Any], ctx: click.Context, values: dict[str, Any]
) -> dict[str, Any]:
    # Here: httpx takes longer to load than a schema to print, which needs none of it.
    from tracer.client import Client, request_for

    try:
        request = request_for(operation, fields)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    everywhere = ctx.find_root().params
    key, url = (
        values[name] if values[name] is not None else everywhere.get(name)
        for name in ("api_key", "base_url")
    )
    try:
        if values["verbose"] or everywhere.get("verbose"):
            _log(Connection.resolve(key, url), request.method, request.path)
        with Client(key, url) as client:
            return client.call(operation, fields)
    except ConfigError as error:
        raise click.UsageError(_spelled(str(error))) from None
    except TransportError as error:
        # One printable line already: the transport cleans what others wrote.
        said = f"API error {error.status}: {error.message}" if error.status else error.message
        click.echo(said, err=True)
        raise SystemExit(1) from None


def _spelled(message: str) -> str:
    for argument, flag in (("api_key", "--api-key"), ("base_url", "--base-url")):
        message = message.replace(f"argument {argument}:", f"{flag}:")
    return message


def _log(connection: Connection, method: str, path: str) -> None:
    key = f"key {mask_key(connection.api_key)}" if connection.api_key else "no key"
    click.echo(f"tracer {__version__}: {method} {connection.base_url}{path}, {key}", err=True)


def _print(value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON's own escapes, so what is printed stays the same document.
    text = _ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    click.echo(text.encode())


sessions = _group("sessions", "Start sessions and add events to them.")
events = _group("events", "Store, change, read and find events.")
