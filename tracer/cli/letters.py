"""`tracer spool dead`: the events that a server refused for good, and what it said about each."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import click
import orjson

from tracer.cli.journal import directory_of, directory_option, json_option, plain
from tracer.deadletters import Letter, read

__all__ = ["dead"]


@click.command()
@directory_option
@json_option
def dead(directory: Path | None, *, as_json: bool) -> None:
    """List the events that were refused for good, with the server's words. Changes nothing."""
    place = directory_of(directory)
    letters = read(place)
    if as_json:
        click.echo(json.dumps([_as_json(letter) for letter in letters], indent=2))
        return
    reasons: Counter[str] = Counter()
    for letter in letters:
        reasons[letter.reason] += 1
        click.echo(_line(letter))
    counted = ", ".join(f"{number:,} {plain(reason)}" for reason, number in reasons.most_common())
    click.echo(f"{reasons.total():,} events in {plain(str(place))}: {counted or 'none'}")


def _as_json(letter: Letter) -> dict[str, object]:
    return {
        "time": letter.time,
        "reason": letter.reason,
        "status": letter.status,
        "message": letter.message,
        "session_id": letter.session_id,
        "event": orjson.loads(letter.event),
    }


def _line(letter: Letter) -> str:
    moment = datetime.fromtimestamp(letter.time / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    event = orjson.loads(letter.event)
    name = f"{event.get('event_type')} {event.get('event_name')} {event.get('event_id')}"
    status = "" if letter.status is None else f" {letter.status}"
    return plain(f"{moment}  {letter.reason}{status}  {name}: {letter.message}")
