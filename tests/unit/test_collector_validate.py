"""What the collector refuses, what it says about it, and what it fills in."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from tracer.collector import validate
from tracer.collector.decode import MAX_DEPTH
from tracer.collector.store import COLUMNS, RefusedError, Row, id_key, id_text

SESSION = uuid4()
OTHER = uuid4()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def event(**fields: Any) -> dict[str, Any]:
    return {"event_type": "tool", "inputs": {}, **fields}


def named(row: Row) -> dict[str, Any]:
    return dict(zip(COLUMNS, row, strict=True))


def session_batch(*events: Any) -> list[dict[str, Any]]:
    rows = validate.session_batch(as_json({"events": list(events)}), SESSION.bytes)
    return [named(row) for row in rows]


def test_payloads_are_stored_as_the_bytes_received() -> None:
    text = '{"b" :1.50, "a":[1e2,  "\\u00e9"], "b2":{"z":null}}'
    body = f'{{"events":[{{"event_type":"tool","inputs":  {text} }}]}}'.encode()
    assert named(validate.session_batch(body, SESSION.bytes)[0])["inputs"] == text


def test_every_event_gets_the_session_of_the_path() -> None:
    (row,) = session_batch(event(session_id="anything"))
    assert row["session_id"] == row["parent_id"] == SESSION.bytes


def test_an_event_without_an_id_gets_a_uuid_of_version_4() -> None:
    (row,) = session_batch(event())
    assert UUID(bytes=row["event_id"]).version == 4


def test_a_parent_that_is_no_uuid_is_kept_as_text() -> None:
    rows = session_batch(event(parent_id="root"), event(parent_id=str(OTHER).upper()))
    assert [row["parent_id"] for row in rows] == ["root", OTHER.bytes]


BAD_EVENTS: list[tuple[Any, str]] = [
    ({"inputs": {}}, "events[1] lacks the required field event_type"),
    ({"event_type": "tool"}, "events[1] lacks the required field inputs"),
    (event(event_type="agent"), "events[1].event_type must be one of chain, model, tool, session"),
    (event(colour=1), "events[1] has the unknown field 'colour'; allowed are event_type, inputs"),
    (event(project="p"), "'project' was an earlier name of project_id"),
    (event(inputs=[]), "events[1].inputs must be an object, not an array"),
    (event(inputs=None), "events[1].inputs must be an object, not null"),
    (event(outputs="x"), "events[1].outputs must be an object, not a string"),
    (event(metadata=3), "events[1].metadata must be an object, not a number"),
    (event(feedback=True), "events[1].feedback must be an object, not a boolean"),
    (event(metrics=False), "events[1].metrics must be an object, not a boolean"),
    (event(children_ids=[1]), "events[1].children_ids[0] must be a string, not integer"),
    (event(error=5), "events[1].error must be a string or null, not integer"),
    (event(start_time="now"), "events[1].start_time must be a number, not string"),
    (event(duration=True), "events[1].duration must be a number, not boolean"),
    (event(event_name=7), "events[1].event_name must be a string, not integer"),
    (event(event_id="7"), "events[1].event_id must be a UUID, not '7'"),
    (event(event_id=str(SESSION)), "events[1].event_id is the session's own id"),
    ("text", "events[1] must be an object, not string"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_EVENTS, ids=[m[:50] for _, m in BAD_EVENTS])
def test_a_bad_event_is_named_by_index_and_field(bad: Any, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        session_batch(event(), bad)
    assert caught.value.status == 400
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"events": [', "not valid JSON"),
        (b'{"events": []} x', "not valid JSON"),
        (b'{"events": [{"event_type":"tool","inputs":{"a":NaN}}]}', "not valid JSON"),
        (b'{"events": [{"event_type":"tool","inputs":{"a":"\\ud800 x"}}]}', "not valid JSON"),
        (b'{"events": [{"event_type":"tool","inputs":{"a":"\xff"}}]}', "not valid UTF-8"),
        (b'{"events": [{"event_type":"tool","inputs":{},"error":"\xff"}]}', "UTF-8"),
        (b'{"events": [{"event_type":"tool","inputs":{},"start_time":1e999}]}', "start_time"),
        (b"[]", "the request must be an object, not array"),
        (b"{}", "the request lacks the required field events"),
        (b'{"events": {}}', "events must be an array, not object"),
        (b'{"events": [], "session_id": "x"}', "unknown field 'session_id'; allowed are events"),
    ],
)
def test_a_bad_batch_says_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        validate.session_batch(body, SESSION.bytes)
    assert caught.value.status == 400
    assert message in caught.value.message


def nested(depth: int) -> bytes:
    inner = b'{"a":' * depth + b'"[{"' + b"}" * depth
    return b'{"event_type":"tool","inputs":' + inner + b"}"


def test_nesting_is_bounded() -> None:
    validate.event(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 1_000_000):
        with pytest.raises(RefusedError, match="nested") as caught:
            validate.event(nested(depth))
        assert caught.value.status == 400


def test_brackets_side_by_side_and_in_strings_are_no_nesting() -> None:
    wide = {"a": [{}] * 5000, "b": "[{" * 5000 + '\\"['}
    assert validate.event(as_json(event(inputs=wide)))


def test_a_session_of_nothing_gets_everything_it_needs() -> None:
    row = named(validate.session(b"{}"))
    assert row["event_id"] == row["session_id"]
    assert UUID(bytes=row["event_id"]).version == 4
    assert (row["event_type"], row["event_name"], row["source"]) == (
        "session",
        "unknown",
        "unknown",
    )
    assert row["start_time"] > 1_700_000_000_000
    assert row["end_time"] is row["duration"] is row["parent_id"] is None


@pytest.mark.parametrize("bad", ["42", 42, None, "", str(SESSION).replace("-", "")])
def test_a_session_id_that_is_no_uuid_is_replaced(bad: Any) -> None:
    key = named(validate.session(as_json({"session_id": bad})))["event_id"]
    assert UUID(bytes=key).version == 4


@pytest.mark.parametrize("bad", ["1700000000000", None, True, {}, 10**400])
def test_a_start_time_that_is_no_number_becomes_now(bad: Any) -> None:
    row = named(validate.session(as_json({"start_time": bad, "end_time": bad})))
    assert row["start_time"] > 1_700_000_000_000
    assert row["end_time"] is None


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"event_name": "e", "session_name": "s"}, "e"),
        ({"session_name": "s"}, "s"),
        ({"event_name": 5, "session_name": "s"}, "s"),
        ({"event_name": None, "session_name": []}, "unknown"),
    ],
)
def test_the_name_of_a_session_falls_back(given: dict[str, Any], name: str) -> None:
    assert named(validate.session(as_json(given)))["event_name"] == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"session": {}}, "unknown field 'session'; allowed are session_id, event_name"),
        ({"metadata": []}, "metadata must be an object, not an array"),
        ({"children_ids": "x"}, "children_ids must be an array, not string"),
        ({"duration": "5"}, "duration must be a number, not string"),
        ([], "the request must be an object, not array"),
    ],
)
def test_a_session_is_refused_only_for_what_has_no_fallback(given: Any, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        validate.session(as_json(given))
    assert message in caught.value.message


def test_a_batch_across_sessions_brings_the_sessions_it_needs() -> None:
    first, second = str(SESSION), str(OTHER)
    events = [
        event(session_id=first),
        event(session_id=second, event_id=second, event_type="session", event_name="mine"),
        event(session_id=second),
        event(session_id=first),
    ]
    batch = validate.event_batch(as_json({"events": events}))
    made = [named(row) for row in batch.addition.sessions]
    assert [id_text(row["event_id"]) for row in made] == [first]
    assert made[0]["event_name"] == "unknown"
    assert not batch.addition.merge
    assert batch.session_id is None
    assert batch.event_ids[1] == second
    own = named(batch.addition.events[1])
    assert (own["event_name"], own["parent_id"]) == ("mine", None)


def test_a_single_session_takes_all_events_and_its_properties() -> None:
    properties = {"session_name": "n", "start_time": 5, "metadata": {"a": 1}}
    events = [event(), event(session_id=str(SESSION)), event(session_id=str(OTHER))]
    batch = validate.event_batch(
        as_json({"events": events, "single_session": True, "session_properties": properties})
    )
    (made,) = [named(row) for row in batch.addition.sessions]
    assert batch.session_id == str(SESSION)
    assert (made["event_name"], made["start_time"]) == ("n", 5)
    assert json.loads(made["metadata"]) == {"a": 1}
    assert {row[1] for row in batch.addition.events} == {SESSION.bytes}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"events": [event()]}, "events[0].session_id is missing"),
        ({"events": [event(session_id="x")]}, "events[0].session_id must be a UUID, not 'x'"),
        ({"events": [], "is_single_session": True}, "an earlier name of single_session"),
        ({"events": [], "session": {}}, "an earlier name of session_properties"),
        ({"events": [event(session_id=str(SESSION), project="p")]}, "earlier name of project_id"),
        ({"events": [], "session_properties": {"source": "x"}}, "unknown field 'source'"),
        ({"events": [], "session_properties": {"metadata": []}}, "session_properties.metadata"),
        ({"events": [], "single_session": 1}, "single_session must be a boolean, not integer"),
    ],
)
def test_a_bad_batch_across_sessions_is_refused(given: Any, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        validate.event_batch(as_json(given))
    assert caught.value.status == 400
    assert message in caught.value.message


def test_an_update_holds_only_what_was_given() -> None:
    changes = validate.update(b'{"outputs":{"a" :1},"duration":2,"children_ids":["x"]}')
    assert changes == {"outputs": '{"a" :1}', "duration": 2, "children_ids": '["x"]'}


@pytest.mark.parametrize(
    "given", [{"inputs": {}}, {"error": "x"}, {"outputs": []}, {"end_time": ""}]
)
def test_an_update_of_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        validate.update(as_json(given))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "text",
    ["", "x" * 36, f"{{{SESSION}}}", str(SESSION).replace("-", ""), f"urn:uuid:{SESSION}",
     " " + str(SESSION)[1:], str(SESSION)[:-2] + "  ", str(SESSION)[:-1] + "-"],
)  # fmt: skip
def test_only_the_dashed_form_is_an_id(text: str) -> None:
    assert id_key(text) is None


def test_ids_are_written_in_lower_case() -> None:
    assert id_text(id_key(str(SESSION).upper())) == str(SESSION)
