"""`tracer doctor`: what is set, and what redaction would mask in a file."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
import orjson

from tracer.config import Config, collector_file
from tracer.errors import ConfigError
from tracer.local import find
from tracer.mask import Finding
from tracer.redact import Redactor
from tracer.settings import mask_key
from tracer.spool import SUFFIX
from tracer.version import __version__

__all__ = ["doctor"]

MAX_BYTES = 64 << 20  # of a file: 64 MiB are read whole and take seconds
PATH_LENGTH = 120  # characters of a path that are shown
# What a terminal acts on: control characters, directions of writing, breaks of lines.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class _Place(NamedTuple):
    """A finding and the line of the file it is in; None: the file is one JSON document."""

    file_line: int | None
    found: Finding


@click.command()
@click.option(
    "--redaction",
    metavar="FILE",
    help="Show what would be masked in a file of JSON, JSON lines or text; - reads standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(redaction: str | None, *, as_json: bool) -> None:
    """Show version, settings and journal; with --redaction what would be masked in a file.

    The secrets themselves are never shown.
    """
    if redaction is None:
        _settings(as_json=as_json)
    else:
        _redaction(redaction, as_json=as_json)


def _settings(*, as_json: bool) -> None:
    try:
        config = Config.resolve()
        key, where = config.ask_for_key(), config.spool_path
    except (ConfigError, RuntimeError) as error:  # RuntimeError: no home directory to expand
        raise click.UsageError(_plain(str(error))) from None
    exists = where.is_dir()
    place = collector_file()
    collector = find(place) if place is not None else None
    shown = {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "key": None if key is None else mask_key(key),
        "server": None if config.is_local else config.connection.base_url,
        "local_collector": collector.url if collector is not None else None,
        "journal": str(where),
        "journal_exists": exists,
        "segments": len(list(where.glob(f"*{SUFFIX}"))) if exists else 0,
    }
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    server = shown["server"] or "none: local mode"
    nearby = shown["local_collector"] or "none runs: events of local mode stay in the journal"
    there = f"{shown['segments']} segments" if exists else "made when first needed"
    journal = f"{where} ({there})"
    for name, value in (
        ("tracer", f"{__version__} on {shown['python']}"),
        ("key", shown["key"] or "not set (HH_API_KEY)"),
        ("server", server),
        ("nearby", nearby),
        ("journal", journal),
    ):
        click.echo(f"{name:<8} {_plain(str(value))}")


def _redaction(name: str, *, as_json: bool) -> None:
    text = _read(name)
    try:
        places = list(_places(text))
    except RecursionError:
        raise click.ClickException("the file is nested too deeply to be masked") from None
    if as_json:
        rows = [{"file_line": p.file_line, **p.found._asdict()} for p in places]
        click.echo(json.dumps({"masked": len(rows), "findings": rows}, indent=2))
        return
    for file_line, found in places:
        where = [] if file_line is None else [f"line {file_line}"]
        if found.path:
            where.append(_plain(found.path)[:PATH_LENGTH])
        if found.line > 1 and file_line is None:
            where.append(f"line {found.line} of the text")
        click.echo(f"{': '.join(where) or 'the value'}  {found.rule}  {found.shown}")
    rules = sorted({place.found.rule for place in places})
    click.echo(f"{len(places)} would be masked" + (f" by: {', '.join(rules)}" if rules else ""))


def _places(text: str) -> Iterator[_Place]:
    """Yield what would be masked: in a JSON document, in JSON lines, else in a text."""
    redact = Redactor()
    value = _json(text)
    if value is not None:
        for found in redact.look(value)[1]:
            yield _Place(None, found)
        return
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip()[:1] in ("{", "[") and _json(first) is not None:
        for number, line in enumerate(lines, 1):
            for found in redact.look(_json(line) or orjson.dumps(line))[1]:
                yield _Place(number, found)
        return
    for found in redact.look(orjson.dumps(text))[1]:
        yield _Place(found.line, found)


def _json(text: str) -> bytes | None:
    raw = text.encode()
    try:
        orjson.loads(raw)
    except ValueError:
        return None
    return raw


def _read(name: str) -> str:
    shown = "standard input" if name == "-" else _plain(click.format_filename(name))
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        said: Any = getattr(error, "strerror", None) or error
        _refuse(f"{shown}: cannot be read: {said}")
    if len(data) > MAX_BYTES:
        _refuse(f"{shown}: is larger than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(f"{shown}: is not UTF-8 (byte {error.start})")


def _plain(text: str) -> str:
    return _ACTIVE.sub("", text)


def _refuse(what: str) -> NoReturn:
    raise click.BadParameter(what, param_hint="--redaction")
