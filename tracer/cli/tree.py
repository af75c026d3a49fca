"""Events of one session as a tree for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

__all__ = ["tree_lines"]

COLOURS = {"session": "white", "chain": "cyan", "model": "magenta", "tool": "green"}


def tree_lines(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one line an event: type, name, duration, error; children below their parents.

    Children come in the order they started. An event whose parent is not among `events` stands
    at the top, so that nothing is left out.
    """
    ids = {event["event_id"] for event in events}
    below: dict[str | None, list[Mapping[str, Any]]] = defaultdict(list)
    for event in sorted(events, key=lambda e: (e["start_time"], e["event_id"])):
        parent = event.get("parent_id")
        known = parent in ids and parent != event["event_id"]
        below[parent if known else None].append(event)
    for root in below[None]:
        yield _line(root)
        yield from _children(root, below, "")


def _children(
    event: Mapping[str, Any], below: Mapping[str | None, list[Mapping[str, Any]]], indent: str
) -> Iterator[str]:
    children = below.get(event["event_id"], [])
    for number, child in enumerate(children, 1):
        last = number == len(children)
        yield f"{indent}{'└─ ' if last else '├─ '}{_line(child)}"
        yield from _children(child, below, indent + ("   " if last else "│  "))


def _line(event: Mapping[str, Any]) -> str:
    kind = click.style(f"{event['event_type']:<7}", fg=COLOURS.get(event["event_type"]))
    duration = event.get("duration")
    took = "still open" if duration is None else f"{duration:,.2f} ms"
    line = f"{kind} {event['event_name']}  {click.style(took, dim=True)}"
    if event.get("error"):
        line += "  " + click.style(event["error"], fg="red")
    return line
