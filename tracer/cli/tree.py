"""Events of one session as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from tracer.tree import branches

__all__ = ["tree_lines"]

COLOURS = {"session": "white", "chain": "cyan", "model": "magenta", "tool": "green"}


def tree_lines(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one line an event: type, name, duration, error; children below their parents."""
    for drawn, event in branches(events):
        yield drawn + _line(event)


def _line(event: Mapping[str, Any]) -> str:
    kind = click.style(f"{event['event_type']:<7}", fg=COLOURS.get(event["event_type"]))
    duration = event.get("duration")
    took = "still open" if duration is None else f"{duration:,.2f} ms"
    line = f"{kind} {event['event_name']}  {click.style(took, dim=True)}"
    if event.get("error"):
        line += "  " + click.style(event["error"], fg="red")
    return line
