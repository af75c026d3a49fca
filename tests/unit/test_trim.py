"""One event made smaller: still an event, still JSON, and it says what is missing."""

from __future__ import annotations

import json

import pytest

from tracer.trim import trimmed


def event(**fields: object) -> bytes:
    head = {"event_id": "e", "session_id": "s", "event_type": "tool", "event_name": "work"}
    return json.dumps({**head, **fields, "metadata": {"m": 1}}, separators=(",", ":")).encode()


@pytest.mark.parametrize("size", [1000, 3000, 10_000, 90_000])
def test_the_largest_fields_are_cut_first_and_marked(size: int) -> None:
    found = trimmed(event(inputs={"a": "x" * 100_000}, outputs={"b": "y" * 200}), size)
    assert found is not None
    assert len(found) <= size
    read = json.loads(found)
    assert read["outputs"] == {"b": "y" * 200}
    assert read["inputs"]["__cut__"]["bytes"] == 100_008
    assert (read["event_id"], read["metadata"], list(read)[-1]) == ("e", {"m": 1}, "metadata")


def test_nothing_goes_without_a_marker() -> None:
    assert trimmed(event(inputs={"a": "x" * 2000}), 250) is None
    assert trimmed(event(inputs={}, error="x" * 2000), 1000) is None, "an error stays text"


def test_what_fits_stays_as_it_is() -> None:
    whole = event(inputs={"a": 1.50, "b": "é"}, outputs={})
    found = trimmed(whole, 10_000)
    assert found is not None
    assert json.loads(found) == json.loads(whole)
