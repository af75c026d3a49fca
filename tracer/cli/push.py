"""`tracer push`: what local mode left in the journal goes to a server, with the ids it has."""

from __future__ import annotations

from pathlib import Path

import click

from tracer.cli.journal import (
    directory_of,
    directory_option,
    json_option,
    key_option,
    spools_for,
    surveyed,
    together,
    url_option,
)
from tracer.cli.orphans import NOTHING, report, send, target
from tracer.config import LOCAL
from tracer.survey import Found

__all__ = ["push"]


@click.command()
@url_option
@key_option
@directory_option
@json_option
def push(url: str | None, api_key: str | None, directory: Path | None, *, as_json: bool) -> None:
    """Upload what programs that have ended recorded in local mode.

    Sessions and events keep their ids, so what is sent twice is stored once. Programs that still
    run keep theirs.
    """
    config, connection = target(url, api_key)
    place = directory_of(directory)
    dead, _ = _local(place)
    outcome = NOTHING
    if dead:
        outcome = send(spools_for(place, [LOCAL]), connection, config, together(dead), "pushing")
    left, running = _local(place, outcome.held)
    what = f"pushed to {connection.base_url}"
    report(outcome, together(left), what, place, running=len(running), as_json=as_json)


def _local(place: Path, held: frozenset[str] = frozenset()) -> tuple[list[Found], list[Found]]:
    """Return the segments of local mode: of dead programs, and `held` by us; of living ones."""
    found = [f for f in surveyed(place) if f.destination == LOCAL]
    dead = [f for f in found if not f.alive or f.name in held]
    return dead, [f for f in found if f not in dead]
