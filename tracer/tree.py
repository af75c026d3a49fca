"""Events of a session as a tree: which one stands below which, and the branches drawn in front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["branches"]


def branches(
    events: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every event with the branches to draw in front of it; children below their parents.

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
        yield "", root
        yield from _children(root, below, "")


def _children(
    event: Mapping[str, Any], below: Mapping[str | None, list[Mapping[str, Any]]], indent: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    children = below.get(event["event_id"], [])
    for number, child in enumerate(children, 1):
        last = number == len(children)
        yield f"{indent}{'└─ ' if last else '├─ '}", child
        yield from _children(child, below, indent + ("   " if last else "│  "))
