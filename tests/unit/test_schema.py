"""The contract as data: schemas, flat fields, and what `problems` finds."""

from __future__ import annotations

from typing import Any

import pytest

from tracer import schema
from tracer.check import problems
from tracer.schema import (
    EVENT_TYPES,
    OPERATIONS,
    Event,
    EventUpdate,
    Operation,
    Session,
    fields_of,
    json_schema,
    required_of,
    snake_case,
)

BY_NAME = {f"{o.group}.{o.name}": o for o in OPERATIONS}


def test_operations_are_those_of_the_contract() -> None:
    assert {name: f"{o.method} {o.path}" for name, o in BY_NAME.items()} == {
        "sessions.create": "POST /v1/sessions",
        "sessions.create_event_batch": "POST /v1/sessions/{session_id}/events/batch",
        "events.create": "POST /v1/events",
        "events.create_batch": "POST /v1/events/batch",
        "events.update": "PUT /v1/events/{event_id}",
        "events.get": "GET /v1/events/{event_id}",
        "events.search": "POST /v1/events/search",
    }


def test_fields_are_those_of_the_contract() -> None:
    assert set(fields_of(Session)) == {
        *("session_id", "event_name", "session_name", "source", "start_time", "end_time"),
        *("duration", "config", "inputs", "outputs", "metadata", "user_properties"),
        "children_ids",
    }
    assert required_of(Session) == frozenset()
    assert set(fields_of(Event)) == {
        *("project_id", "source", "event_name", "event_type", "event_id", "session_id"),
        *("parent_id", "children_ids", "config", "inputs", "outputs", "metadata", "feedback"),
        *("metrics", "user_properties", "error", "start_time", "end_time", "duration"),
    }
    assert required_of(Event) == {"event_type", "inputs"}
    assert set(fields_of(EventUpdate)) == {
        *("metadata", "feedback", "metrics", "outputs", "config", "user_properties"),
        *("duration", "end_time", "children_ids"),
    }
    assert EVENT_TYPES == ("chain", "model", "tool", "session")


@pytest.mark.parametrize("operation", OPERATIONS, ids=BY_NAME)
def test_every_field_of_a_request_is_described(operation: Operation) -> None:
    flat = operation.flat_schema()
    assert flat["additionalProperties"] is False
    assert set(flat.get("required", ())) == operation.flat_required()
    for name, field in flat["properties"].items():
        assert field["description"], name
        assert field["type"], name
        assert name == snake_case(name)


def test_path_parameters_and_body_are_flattened() -> None:
    batch = BY_NAME["sessions.create_event_batch"].flat_schema()
    assert list(batch["properties"]) == ["session_id", "events"]
    assert batch["required"] == ["session_id", "events"]
    assert list(BY_NAME["events.search"].flat_fields())[1] == "date_range"
    assert BY_NAME["events.get"].flat_required() == {"event_id"}


def test_types_in_json_schema() -> None:
    properties = json_schema(Event)["properties"]
    assert properties["error"]["type"] == ["string", "null"]
    assert properties["start_time"]["type"] == "number"
    assert properties["event_type"]["enum"] == list(EVENT_TYPES)
    assert properties["children_ids"]["items"] == {"type": "string"}
    assert properties["inputs"]["type"] == "object"
    assert json_schema(Any) == {}


WRONG: list[tuple[Any, str]] = [
    ([], "the request must be an object, not array"),
    ({"start_time": "now"}, "start_time must be a number, not string"),
    ({"start_time": float("inf")}, "start_time must be a number, not inf"),
    ({"start_time": True}, "start_time must be a number, not boolean"),
    ({"config": []}, "config must be an object, not array"),
    ({"children_ids": ["a", None]}, "children_ids[1] must be a string, not null"),
    ({"session_id": b"x"}, "session_id must be a string, not bytes"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_problems_say_where_and_what(value: Any, message: str) -> None:
    assert list(problems(value, json_schema(Session))) == [message]


def test_problems_are_found_in_nested_records() -> None:
    batch = BY_NAME["events.create_batch"].flat_schema()
    bad = {"events": [{"event_type": "x" * 1000, "inputs": {}}, {"inputs": {}, "colour": 1}]}
    first, second, third = problems(bad, batch)
    assert first.startswith("events[0].event_type must be one of chain, model, tool, session, not ")
    assert len(first) < 200
    assert second == "events[1] lacks the required field event_type"
    assert third.startswith("events[1] has the unknown field 'colour'; allowed are event_type")


def test_what_is_right_has_no_problems() -> None:
    good = {"start_time": 1, "end_time": 1.5, "children_ids": [], "metadata": {"any": [None]}}
    assert list(problems(good, json_schema(Session))) == []
    event: dict[str, Any] = {"event_type": "tool", "inputs": {}, "error": None}
    assert list(problems(event, json_schema(Event))) == []


def test_exports_exist() -> None:
    assert all(hasattr(schema, name) for name in schema.__all__)
