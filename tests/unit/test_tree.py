"""Events as a tree for the terminal."""

from __future__ import annotations

from typing import Any

import click

from tracer.cli.tree import tree_lines


def event(name: str, parent: str | None, start: float = 0, **more: Any) -> dict[str, Any]:
    found = {"event_id": name, "event_name": name, "event_type": "tool", "start_time": start}
    return {**found, "duration": 1.5, "parent_id": parent, **more}


def lines(*events: dict[str, Any]) -> list[str]:
    return [click.unstyle(line) for line in tree_lines(events)]


def test_children_stand_below_their_parents_in_the_order_they_started() -> None:
    assert lines(
        event("second", "root", 3),
        event("leaf", "first", 2),
        event("root", None, event_type="session"),
        event("first", "root", 1),
    ) == [
        "session root  1.50 ms",
        "├─ tool    first  1.50 ms",
        "│  └─ tool    leaf  1.50 ms",
        "└─ tool    second  1.50 ms",
    ]


def test_an_orphan_is_not_left_out() -> None:
    assert lines(event("lost", "nobody")) == ["tool    lost  1.50 ms"]


def test_an_event_that_names_itself_as_parent_is_a_root() -> None:
    assert lines(event("self", "self")) == ["tool    self  1.50 ms"]


def test_errors_and_open_sessions_are_shown() -> None:
    assert lines(event("bad", None, error="KeyError: 'x'", duration=None)) == [
        "tool    bad  still open  KeyError: 'x'"
    ]
