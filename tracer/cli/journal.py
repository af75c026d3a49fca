"""What the commands about the journal share: which directory, what lies in it, how it is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from tracer.answers import clean_text
from tracer.config import Config
from tracer.errors import ConfigError, SpoolError
from tracer.spool import Spool
from tracer.survey import Found, Tally, survey

__all__ = [
    "amounts",
    "directory_of",
    "directory_option",
    "json_option",
    "key_option",
    "plain",
    "spools_for",
    "surveyed",
    "together",
    "url_option",
]

SHOWN = 300  # characters of foreign text in one line

_Option = Callable[[Any], Any]
directory_option: _Option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Directory of the journal instead of HH_SPOOL_DIR.",
)
url_option: _Option = click.option(
    "--url", metavar="URL", help="Server to send to instead of HH_API_URL."
)
key_option: _Option = click.option(
    "--api-key",
    metavar="KEY",
    help="Prefer the variable HH_API_KEY: other users of this machine can see a command line.",
)
json_option: _Option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def directory_of(given: Path | None) -> Path:
    """Return the directory of the journal: a flag, else what is configured."""
    if given is not None:
        return given.expanduser()
    try:
        return Config.resolve().spool_path
    except (ConfigError, RuntimeError) as error:  # RuntimeError: no home directory to expand
        raise click.UsageError(plain(str(error))) from None


def surveyed(place: Path) -> list[Found]:
    """Return what lies in the directory; nothing where there is none."""
    try:
        return list(survey(place))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise click.ClickException(f"{plain(str(place))}: {error.strerror}") from None


def spools_for(place: Path, destinations: Sequence[str]) -> list[Spool]:
    """Return one spool for each destination, to adopt from."""
    try:
        return [Spool(place, destination) for destination in destinations]
    except SpoolError as error:
        raise click.ClickException(plain(str(error))) from None


def together(found: Sequence[Found]) -> Tally:
    """Return what waits in several segments."""
    summed = Tally()
    for one in found:
        summed.add(one.waiting)
    return summed


def amounts(waiting: Tally) -> str:
    """Say what waits."""
    said = f"{waiting.events:,} events, {waiting.sessions:,} sessions, {waiting.updates:,} updates"
    if waiting.interrupted:
        said += f", {waiting.interrupted:,} open calls"
    if waiting.unreadable:
        said += f", {waiting.unreadable:,} unreadable"
    return said


def plain(text: str) -> str:
    """Return foreign text as one line that a terminal only shows (S23)."""
    return clean_text(text, SHOWN)
