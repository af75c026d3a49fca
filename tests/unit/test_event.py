"""The finished record: what the server takes, `metadata` last, fields merged as given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.check import problems
from tracer.encode import Encoder, encode
from tracer.event import OBJECTS, Fields, Shape, event_json, merge, object_json, shape_of
from tracer.schema import Event, Session, json_schema

EVENT, SESSION = json_schema(Event), json_schema(Session)
PLACE = '"event_id":"e","session_id":"s","source":"test",'

names = st.text(st.characters(), max_size=30)
values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
    ),
    max_leaves=8,
)
objects = st.none() | st.dictionaries(st.text(st.characters()), values)
given_fields = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(sorted(OBJECTS), values), "error": values}
)
shapes = st.builds(
    Shape, st.sampled_from(["chain", "model", "tool"]), names, config=objects, metadata=objects
)


def finished(shape: Shape, fields: Fields, start_ms: int = 1000, duration_ns: int = 0) -> Any:
    return parsed(b"".join(event_json(shape, PLACE, start_ms, duration_ns, fields)))


def parsed(payload: bytes) -> Any:
    def no_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(members)) == len(members)
        return dict(members)

    return json.loads(payload, object_pairs_hook=no_doubles)


def merged(*given: dict[str, Any]) -> Any:
    fields: Fields = {}
    for each in given:
        merge(fields, each, Encoder())
    return json.loads(object_json(fields))


@given(shapes, st.lists(given_fields, max_size=3), st.integers(0, 2**43), st.integers(0, 2**60))
def test_every_event_fits_the_contract_and_ends_with_metadata(
    shape: Shape, given: list[dict[str, Any]], start_ms: int, duration_ns: int
) -> None:
    fields: Fields = {}
    for each in given:
        merge(fields, each, Encoder())
    payload = b"".join(event_json(shape, PLACE, start_ms, duration_ns, fields))
    event = parsed(payload)
    assert list(problems(event, EVENT)) == []
    assert list(event)[-1] == "metadata"
    assert payload.endswith(b"}}")
    assert event["start_time"] == start_ms
    assert event["end_time"] == start_ms + duration_ns // 1_000_000
    assert event["duration"] == pytest.approx(duration_ns / 1e6, abs=0.001)


def test_what_a_shape_says_is_in_every_event() -> None:
    shape = Shape("model", 'say "hi"', {"model": "m"}, {"team": "a"})
    event = finished(shape, {"inputs": b'{"q":1}', "outputs": b'{"a":2}'}, duration_ns=1_234_567)
    assert event == {
        "event_id": "e",
        "session_id": "s",
        "source": "test",
        "event_type": "model",
        "event_name": 'say "hi"',
        "start_time": 1000,
        "end_time": 1001,
        "duration": 1.235,
        "inputs": {"q": 1},
        "outputs": {"a": 2},
        "config": {"model": "m"},
        "metadata": {"team": "a"},
    }


def test_both_ways_of_joining_make_the_same_event() -> None:
    shape = Shape("tool", "t", {"c": 1}, {"m": 1})
    quick = finished(shape, {"inputs": b"{}", "outputs": b"{}"})
    slow = finished(shape, {"inputs": b"{}", "outputs": b"{}", "metrics": b'{"n":1}'})
    assert {**quick, "metrics": {"n": 1}} == slow


def test_inputs_are_there_when_nothing_was_given() -> None:
    event = finished(Shape("chain", "c"), {})
    assert (event["inputs"], event["metadata"]) == ({}, {})
    assert "outputs" not in event
    assert "config" not in event


def test_given_config_and_metadata_merge_over_those_of_the_shape() -> None:
    shape = Shape("model", "m", {"model": "a", "kept": 1}, {"team": "a", "kept": 1})
    event = finished(shape, {"config": b'{"model":"b"}', "metadata": b'{"team":"b"}'})
    assert event["config"] == {"model": "b", "kept": 1}
    assert event["metadata"] == {"team": "b", "kept": 1}
    assert finished(shape, {})["config"] == {"model": "a", "kept": 1}


def test_only_the_event_types_of_the_wire_are_taken() -> None:
    with pytest.raises(ValueError, match=r"must be one of chain, model, tool.*not 'agent'"):
        Shape("agent", "a")


def test_a_name_is_escaped() -> None:
    name = 'quote " slash \\ line \n zero \0'
    assert finished(Shape("chain", name), {})["event_name"] == name
    assert finished(Shape("chain", "lone \ud800"), {})["event_name"] == "lone \\ud800"


def test_shapes_of_names_are_shared_and_bounded() -> None:
    assert shape_of("tool", "search") is shape_of("tool", "search")
    assert shape_of("tool", "search") is not shape_of("model", "search")
    for n in range(3000):
        shape_of("tool", f"request {n}")
    assert shape_of.cache_info().currsize <= 1024


def test_objects_given_twice_merge_and_other_fields_are_replaced() -> None:
    found = merged(
        {"metadata": {"a": 1, "b": 1}, "metrics": {"x": 1}, "error": "first"},
        {"metadata": {"b": 2, "c": 2}, "error": "second"},
    )
    assert found == {"metadata": {"a": 1, "b": 2, "c": 2}, "metrics": {"x": 1}, "error": "second"}


@pytest.mark.parametrize("field", sorted(OBJECTS))
def test_what_is_no_object_becomes_a_result(field: str) -> None:
    assert merged({field: [1, 2]}) == {field: {"result": [1, 2]}}


def test_none_means_not_given() -> None:
    assert merged({"metadata": {"a": 1}}, {"metadata": None, "error": None}) == {
        "metadata": {"a": 1}
    }


def test_a_value_is_encoded_when_it_is_given() -> None:
    fields: Fields = {}
    steps = ["first"]
    merge(fields, {"outputs": {"steps": steps}}, Encoder())
    steps.append("second")
    assert json.loads(object_json(fields)) == {"outputs": {"steps": ["first"]}}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("plain", "plain"),
        (ValueError("no"), "ValueError: no"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (404, "404"),
        ({"code": 1}, '{"code":1}'),
    ],
)
def test_an_error_is_text_whatever_was_given(error: object, text: str) -> None:
    assert merged({"error": error}) == {"error": text}


@given(given_fields)
def test_a_session_body_fits_the_contract(fields: dict[str, Any]) -> None:
    body: Fields = {"session_id": encode("s"), "session_name": encode("n")}
    allowed = {k: v for k, v in fields.items() if k in SESSION["properties"]}
    merge(body, allowed, Encoder())
    assert list(problems(json.loads(object_json(body)), SESSION)) == []
