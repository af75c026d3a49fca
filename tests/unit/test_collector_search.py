"""Searches: what matches, what is refused, and that nothing of a request becomes SQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tracer.check import problems
from tracer.collector import answers, validate
from tracer.collector.query import search_request
from tracer.collector.search import compile_search
from tracer.collector.sqlite import SqliteStore
from tracer.collector.store import Addition, RefusedError
from tracer.schema import Event, fields_of, json_schema

SESSION = "11111111-2222-4333-8444-555555555555"
IDS = {name: str(UUID(int=number)) for number, name in enumerate("abcd", 1)}
EVENTS: list[dict[str, Any]] = [
    {
        "event_id": IDS["a"], "event_name": "a", "event_type": "model", "start_time": 1000,
        "inputs": {"q": "Refund 100%", "messages": [{"content": "hi"}]}, "duration": 5.5,
        "metadata": {"cost": 0.5, "flag": True, "when": "2026-11-22T10:00:00Z", "tags": ["x"]},
    },
    {
        "event_id": IDS["b"], "event_name": "b", "event_type": "tool", "start_time": 2000,
        "inputs": {"q": "order"}, "error": "boom", "parent_id": "root", "children_ids": ["k1"],
        "metadata": {"cost": 2, "flag": False, "when": 1795341600000, "0": "zero"},
    },
    {
        "event_id": IDS["c"], "event_name": "c", "event_type": "tool", "start_time": 3000.5,
        "inputs": {}, "metadata": {"cost": "2", "flag": 1, "none": None, "a.b": 1},
    },
    {
        "event_id": IDS["d"], "event_name": "d", "event_type": "chain", "start_time": 4000,
        "inputs": {}, "end_time": 4100, "source": "cli", "outputs": {"text": "Grüße, 世界"},
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path_factory.mktemp("search") / "collector.db")
    body = json.dumps({"events": EVENTS}).encode()
    rows = validate.session_batch(body, UUID(SESSION).bytes)
    opened.add(Addition(rows, []), len(body)).result(10)
    yield opened
    opened.close()


def search(store: SqliteStore, **request: Any) -> dict[str, Any]:
    found = search_request(json.dumps(request).encode())
    answer: dict[str, Any] = json.loads(store.search(found, answers.search).result(10))
    return answer


def names(answer: dict[str, Any]) -> str:
    return "".join(event["event_name"] for event in answer["events"])


CASES: list[tuple[str, str, Any, str | None, str]] = [
    # field, operator, value, type, names of the matching events, newest first
    ("event_type", "is", "tool", None, "cb"),
    ("event_type", "is not", "tool", None, "da"),
    ("event_id", "is", IDS["b"], None, "b"),
    ("event_id", "is", IDS["b"].upper(), None, "b"),
    ("event_id", "is", "nonsense", None, ""),
    ("event_id", "contains", "0002", None, "b"),
    ("session_id", "is", SESSION, None, "dcba"),
    ("session_id", "is not", SESSION, None, ""),
    ("session_id", "contains", "2222-4333", None, "dcba"),
    ("parent_id", "is", "root", None, "b"),
    ("parent_id", "is", SESSION, None, "dca"),
    ("parent_id", "contains", "oo", None, "b"),
    ("source", "is", "cli", None, "d"),
    ("error", "exists", None, None, "b"),
    ("error", "not exists", None, None, "dca"),
    ("error", "contains", "oo", None, "b"),
    ("error", "not contains", "oo", None, "dca"),
    ("error", "is not", "boom", None, "dca"),
    ("event_name", "greater than", "b", None, "dc"),
    ("end_time", "exists", None, None, "d"),
    ("duration", "is", 5.5, None, "a"),
    ("duration", "is", "5.5", "number", "a"),
    ("duration", "less than", 10**30, None, "a"),
    ("start_time", "greater than", 2000, None, "dc"),
    ("start_time", "less than", "1970-01-01T00:00:02Z", None, "a"),
    ("start_time", "after", "1970-01-01T00:00:03Z", None, "dc"),
    ("start_time", "after", "1970-01-01T00:00:03.5+00:00", None, "d"),
    ("start_time", "before", 2000, None, "a"),
    ("start_time", "is", "1970-01-01T00:00:03.0005", "datetime", "c"),
    ("start_time", "is", "1970-01-01T00:00:03.000500123Z", "datetime", "c"),
    ("start_time", "is", "1970-01-01 00:00:02", None, "b"),
    ("metadata", "exists", None, None, "cba"),
    ("metadata", "not exists", None, None, "d"),
    ("metadata.cost", "is", 2, None, "b"),
    ("metadata.cost", "is", "2", None, "c"),
    ("metadata.cost", "is", "2", "number", "b"),
    ("metadata.cost", "is", 2, "string", "c"),
    ("metadata.cost", "is not", 2, None, "dca"),
    ("metadata.cost", "greater than", 0.5, None, "b"),
    ("metadata.cost", "less than", 1, None, "a"),
    ("metadata.flag", "is", True, None, "a"),
    ("metadata.flag", "is", "FALSE", "boolean", "b"),
    ("metadata.flag", "is", 1, None, "c"),
    ("metadata.none", "exists", None, None, ""),
    ("metadata.0", "is", "zero", None, "b"),
    ("metadata.tags.0", "is", "x", None, "a"),
    ("metadata.tags", "contains", '"x"', None, "a"),
    ("metadata.when", "is", "2026-11-22T11:00:00+01:00", "datetime", "ba"),
    ("metadata.when", "after", "2026-11-22T09:59:59Z", None, "ba"),
    ("metadata.when", "before", "2026-11-22T10:00:00Z", None, ""),
    ("metadata.a", "exists", None, None, ""),
    ("inputs", "contains", "Refund", None, "a"),
    ("inputs", "is", "{}", None, "dc"),
    ("inputs.q", "contains", "100%", None, "a"),
    ("inputs.q", "not contains", "100%", None, "dcb"),
    ("inputs.q", "contains", "_", None, ""),
    ("inputs.messages.0.content", "is", "hi", None, "a"),
    ("inputs.messages.1.content", "exists", None, None, ""),
    ("outputs.text", "contains", "ße, 世", None, "d"),
    ("children_ids", "contains", "k1", None, "b"),
    ("children_ids.0", "is", "k1", None, "b"),
    ("event_name", "is", "' OR 1=1 --", None, ""),
    ("metadata.x' OR 1=1 --", "exists", None, None, ""),
    ("metadata.$[*]", "exists", None, None, ""),
]


@pytest.mark.parametrize(("field", "operator", "value", "kind", "expected"), CASES)
def test_what_matches(
    store: SqliteStore, field: str, operator: str, value: Any, kind: str | None, expected: str
) -> None:
    condition = {"field": field, "operator": operator}
    if value is not None:
        condition["value"] = value
    if kind is not None:
        condition["type"] = kind
    answer = search(store, filters=[condition])
    assert names(answer) == expected
    assert answer["totalEvents"] == len(expected)


def test_all_conditions_must_hold(store: SqliteStore) -> None:
    tool = {"field": "event_type", "operator": "is", "value": "tool"}
    here = {"field": "session_id", "operator": "is", "value": SESSION}
    broken = {"field": "error", "operator": "exists"}
    assert names(search(store, filters=[tool, here])) == "cb"
    assert names(search(store, filters=[tool, here, broken])) == "b"


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ({}, "dcba"),
        ({"start_time": "1970-01-01T00:00:02Z"}, "dcb"),
        ({"end_time": "1970-01-01T00:00:02.000Z"}, "ba"),
        ({"start_time": "1970-01-01T00:00:02Z", "end_time": "1970-01-01T00:00:04Z"}, "dcb"),
        ({"start_time": "1970-01-01T01:00:02+01:00"}, "dcb"),
    ],
)
def test_both_ends_of_the_date_range_are_included(
    store: SqliteStore, span: dict[str, str], expected: str
) -> None:
    assert names(search(store, dateRange=span)) == expected


def test_pages_are_newest_first_and_know_the_total(store: SqliteStore) -> None:
    pages = [search(store, limit=2, page=page, ignore_order=True) for page in (1, 2, 3)]
    assert [names(page) for page in pages] == ["dc", "ba", ""]
    assert {page["totalEvents"] for page in pages} == {4}
    assert search(store, limit=3, page=2)["totalEvents"] == 4


def test_events_come_back_as_the_contract_has_them_and_can_be_sent_again(
    store: SqliteStore,
) -> None:
    events = search(store)["events"]
    for event in events:
        assert set(event) <= set(fields_of(Event))
        assert list(problems(event, json_schema(Event))) == []
    assert events[0]["outputs"] == EVENTS[3]["outputs"]
    assert (events[1]["start_time"], events[2]["start_time"]) == (3000.5, 2000)
    assert isinstance(events[2]["start_time"], int)


BAD: list[tuple[Any, str]] = [
    ([], "the request must be an object"),
    ({"limit": 0}, "limit must be from 1 to 7,500, not 0"),
    ({"limit": 7501}, "limit must be from 1 to 7,500, not 7501"),
    ({"limit": 1.5}, "limit must be an integer"),
    ({"page": 0}, "page must be from 1"),
    ({"query": 1}, "unknown field 'query'; allowed are filters, dateRange"),
    ({"dateRange": {"$gte": "x"}}, "dateRange has the unknown field '$gte'"),
    ({"dateRange": {"start_time": "yesterday"}}, "dateRange.start_time must be an ISO 8601 time"),
    ({"filters": [{"field": "source"}]}, "filters[0] lacks the required field operator"),
    ({"filters": [{"field": "source", "operator": "like"}]}, "filters[0].operator must be one of"),
    ({"filters": [{"field": "x", "operator": "exists"}]}, "filters[0].field must begin with one"),
    ({"filters": [{"field": "id", "operator": "exists"}]}, "filters[0].field must begin with one"),
    ({"filters": [{"field": "source.a", "operator": "exists"}]}, "no path inside"),
    ({"filters": [{"field": "inputs..a", "operator": "exists"}]}, "parts of a path"),
    ({"filters": [{"field": 'inputs.a"b', "operator": "exists"}]}, "parts of a path"),
    ({"filters": [{"field": "source", "operator": "is"}]}, "filters[0].value must be"),
    ({"filters": [{"field": "source", "operator": "is", "value": None}]}, "exists and not exists"),
    ({"filters": [{"field": "source", "operator": "is", "value": 1}]}, "source holds text"),
    ({"filters": [{"field": "duration", "operator": "is", "value": "x"}]}, "holds a number"),
    (
        {"filters": [{"field": "duration", "operator": "is", "value": "x", "type": "number"}]},
        "filters[0].value must be a number",
    ),
    (
        {"filters": [{"field": "metadata.a", "operator": "greater than", "value": True}]},
        "greater than compares a string or number or datetime, not a boolean",
    ),
    (
        {"filters": [{"field": "start_time", "operator": "after", "value": "soon"}]},
        "filters[0].value must be an ISO 8601 time",
    ),
    (
        {"filters": [{"field": "start_time", "operator": "contains", "value": "1"}]},
        "start_time holds a number",
    ),
    (
        {"filters": [{"field": "source", "operator": "is", "value": "x", "type": "text"}]},
        "filters[0].type must be one of string, number, boolean, datetime",
    ),
    ({"filters": [{"field": "source", "operator": "exists"}] * 51}, "filters must be 50 at most"),
]


@pytest.mark.parametrize(("request_", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_a_bad_search_says_what_is_allowed(request_: Any, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        search_request(json.dumps(request_).encode())
    assert caught.value.status == 400
    assert message in caught.value.message


def test_nothing_of_a_request_is_in_the_statement() -> None:
    canary = "canary"
    for field in ("event_id", "source", "metadata", f"metadata.{canary}", f"inputs.0.{canary}"):
        for operator in ("exists", "is", "is not", "contains", "not contains", "less than"):
            condition = {"field": field, "operator": operator, "value": canary}
            request = json.dumps({"filters": [condition]}).encode()
            sql, _ = compile_search(search_request(request))
            assert canary not in sql


@pytest.mark.parametrize(
    ("request_", "index"),
    [
        ({}, "events_by_time"),
        ({"dateRange": {"start_time": "2026-01-01"}}, "events_by_time"),
        ({"filters": [{"field": "event_type", "operator": "is", "value": "tool"}]}, "by_type"),
        (
            {
                "filters": [
                    {"field": "event_type", "operator": "is", "value": "tool"},
                    {"field": "session_id", "operator": "is", "value": SESSION},
                ]
            },
            "events_by_session",
        ),
    ],
)
def test_newest_first_needs_no_sorting(
    store: SqliteStore, tmp_path: Path, request_: Any, index: str
) -> None:
    from tracer.collector.database import open_writer

    where, parameters = compile_search(search_request(json.dumps(request_).encode()))
    connection = open_writer(tmp_path / "plan.db")
    try:
        plan = connection.execute(
            f"EXPLAIN QUERY PLAN SELECT * FROM events {where} "  # noqa: S608 - the statement under test
            "ORDER BY start_time DESC, id DESC LIMIT 50",
            parameters,
        ).fetchall()
    finally:
        connection.close()
    steps = " ".join(step[3] for step in plan)
    assert index in steps
    assert "TEMP B-TREE" not in steps


def test_a_search_without_end_is_given_up(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.collector.sqlite.SEARCH_SECONDS", -1.0)
    monkeypatch.setattr("tracer.collector.sqlite.PROGRESS_STEPS", 1)
    with pytest.raises(RefusedError, match="narrow it") as caught:
        search(store)
    assert caught.value.status == 400
    monkeypatch.undo()
    assert search(store)["totalEvents"] == 4


def test_readers_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._read(lambda db: db.execute("DELETE FROM events")).result(10)
