"""`tracer spool …`: look at the journal of all programs, send or delete what dead ones left."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tracer.cli import show_help
from tracer.cli.journal import (
    amounts,
    directory_of,
    directory_option,
    json_option,
    key_option,
    plain,
    spools_for,
    surveyed,
    together,
    url_option,
)
from tracer.cli.letters import dead
from tracer.config import LOCAL, Config
from tracer.errors import ConfigError
from tracer.survey import Found, Tally, tally

__all__ = ["spool"]

SHORT = 12  # characters of a fingerprint: enough to tell destinations apart
UNITS = ((86400, "d"), (3600, "h"), (60, "min"))

_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
_destination_option = click.option(
    "--destination",
    metavar="WHICH",
    help="here, local, or the beginning of a fingerprint that `ls` shows; all if not given.",
)


@click.group("spool", invoke_without_command=True)
@click.pass_context
def spool(ctx: click.Context) -> None:
    """Look at the journal; send or delete what programs left in it."""
    show_help(ctx)


@spool.command()
@directory_option
@json_option
def ls(directory: Path | None, *, as_json: bool) -> None:
    """List the segments: for whom, of whom, and what waits in them. Changes nothing."""
    place, here = directory_of(directory), _here()
    found = surveyed(place)
    if as_json:
        click.echo(json.dumps(_as_json(place, found, here), indent=2))
        return
    segments = [f for f in found if f.what is None]
    for one in segments:
        click.echo(_line(one, here))
    for one in found:
        if one.what is not None:
            click.echo(f"not ours: {plain(one.what)}  {plain(one.name)}")
    click.echo(f"{len(segments)} segments in {plain(str(place))}: {amounts(together(segments))}")


@spool.command()
@_destination_option
@directory_option
@_yes_option
@json_option
@url_option
@key_option
def replay(
    destination: str | None,
    directory: Path | None,
    url: str | None,
    api_key: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Send what ended programs left for another server, key or project to the one set now.

    What was recorded in local mode is not among it: `tracer push` sends that.
    """
    # Loaded here: httpx takes longer to load than a directory to list.
    from tracer.cli.orphans import report, send, target

    if destination == LOCAL:
        raise click.UsageError("what local mode left is sent by: tracer push")
    config, connection = target(url, api_key)
    place = directory_of(directory)

    orphans = _dead(surveyed(place), destination, config.destination)
    chosen = [f for f in orphans if f.destination != LOCAL]
    waiting = together(chosen)
    _confirm(
        f"Send {amounts(waiting)} of {len(chosen)} segments to {connection.base_url}?", yes=yes
    )
    destinations = sorted({f.destination for f in chosen})
    spools = spools_for(place, destinations)
    if not spools:
        click.echo("{}" if as_json else "nothing to replay")
        return
    outcome = send(spools, connection, config, waiting, "replaying")
    what = f"replayed to {connection.base_url}"
    left = together(
        [
            f
            for f in surveyed(place)
            if f.destination in destinations and (not f.alive or f.name in outcome.held)
        ]
    )
    report(outcome, left, what, place, as_json=as_json)


@spool.command()
@_destination_option
@directory_option
@_yes_option
@json_option
def clear(destination: str | None, directory: Path | None, *, yes: bool, as_json: bool) -> None:
    """Delete what ended programs left; what living ones hold stays."""
    place = directory_of(directory)
    found = surveyed(place)
    orphans = _dead(found, destination, _here())
    _confirm(
        f"Delete {amounts(together(orphans))} in {len(orphans)} segments of {plain(str(place))}?",
        yes=yes,
    )
    deleted, gone = Tally(), 0
    for one in spools_for(place, sorted({f.destination for f in orphans})):
        while (segment := one.adopt()) is not None:  # locked: nobody is sending it
            deleted.add(tally(segment))
            one.discard(segment)
            gone += 1
    living = sum(f.alive for f in found)
    if as_json:
        click.echo(json.dumps({"segments": gone, **asdict(deleted), "living": living}, indent=2))
        return
    click.echo(f"deleted {gone} segments: {amounts(deleted)}")
    if living:
        click.echo(f"{living} segments of running programs are left to them")


spool.add_command(dead)


def _here() -> str:
    try:
        return Config.resolve().destination
    except ConfigError as error:
        raise click.UsageError(plain(str(error))) from None


def _dead(found: Sequence[Found], destination: str | None, here: str) -> list[Found]:
    left = [f for f in found if f.what is None and not f.alive]
    if destination is None:
        return left
    wanted = {"here": here, LOCAL: LOCAL}.get(destination)
    if wanted is not None:
        return [f for f in left if f.destination == wanted]
    chosen = [f for f in left if f.destination.startswith(destination)]
    if not chosen or not destination:
        raise click.UsageError(f"no orphan is for the destination {plain(destination)!r}")
    return chosen


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: pass --yes")
    if not click.confirm(question, err=True):
        raise SystemExit(1)


def _label(one: Found, here: str) -> str:
    if one.destination == LOCAL:
        return LOCAL
    return "here" if one.destination == here else "another"


def _line(one: Found, here: str) -> str:
    label = _label(one, here)
    if label == "another":
        label = plain(one.destination)[:SHORT]
    owner = "alive" if one.alive else "dead"
    size = f"{one.size / (1 << 20):.1f} MiB"
    waiting = amounts(one.waiting)
    return (
        f"{label:<{SHORT}}  {owner:<5}  {_age(one.age):>6}  {size:>8}  {plain(one.name)}  {waiting}"
    )


def _age(seconds: float) -> str:
    for length, unit in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _as_json(place: Path, found: Sequence[Found], here: str) -> dict[str, Any]:
    return {
        "directory": str(place),
        "segments": [
            {
                "name": f.name,
                "destination": _label(f, here),
                "fingerprint": f.destination,
                "alive": f.alive,
                "age_seconds": round(f.age, 1),
                "size": f.size,
                **asdict(f.waiting),
            }
            for f in found
            if f.what is None
        ],
        "foreign": [{"name": f.name, "what": f.what} for f in found if f.what is not None],
    }
