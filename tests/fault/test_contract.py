"""Fault F94: whatever is recorded fits the contract, and the strict collector takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from collector_process import CollectorProcess
from drawn_programs import Draw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import assert_books, assert_exact, stored

from tracer import Tracer
from tracer.check import problems
from tracer.event import OBJECTS
from tracer.schema import OPERATIONS, Event, SessionEventBatch, json_schema, required_of
from tracer.transport import HttpTransport, Request

AT_ONCE = 50  # events of one example: what Hypothesis does for each costs more than they do
EXAMPLES = 20  # 1,000 events
MANY_EXAMPLES = 2000  # 100,000

# On the wire is what the tracer always writes, what was given, and nothing else.
ALWAYS = {
    *("event_id", "session_id", "event_type", "event_name", "inputs", "metadata"),
    *("start_time", "end_time", "duration"),
}
MAYBE = {"parent_id", "source", "error"}
BODIES = {
    (o.method, re.compile(re.sub(r"\\?\{\w+\\?\}", "[^/]+", o.path) + "$")): json_schema(o.body)
    for o in OPERATIONS
    if o.body is not None
}

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=40),  # surrogates included
    st.binary(max_size=40),
    st.sampled_from(
        [
            *(Decimal("1.10"), 1 + 2j, UUID(int=5), date(2026, 1, 2), object(), ValueError("no")),
            *(datetime(2026, 1, 2, tzinfo=timezone.utc), range(3), 10**500, int, len, 2**64),
        ]
    ),
)
keys = st.one_of(st.text(st.characters(), max_size=10), st.integers(), st.booleans(), st.none())
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner),
        st.frozensets(st.integers() | st.text(max_size=5), max_size=3),
    ),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=4)
names = st.text(st.characters(), max_size=30)
pools = st.tuples(*(st.lists(each, min_size=1, max_size=6) for each in (values, objects, names)))


class Trouble(Exception):  # noqa: N818 - a user's class, named as users do
    """What a drawn call raises."""


class Caller:
    """Record events through the public interface: ways, fields and values are drawn."""

    def __init__(self, tracer: Tracer, pool: Any, draw: Draw) -> None:
        self._tracer, self._draw = tracer, draw
        self._values, self._objects, self._names = pool
        self.given: dict[str, set[str]] = {}

    def call(self) -> None:
        ways: list[Callable[[], None]] = [self.block, self.logged, self.opened, self.decorated]
        self._one_of(ways)()

    def _one_of(self, choices: Any) -> Any:
        return choices[self._draw.below(len(choices))]

    def _fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in sorted(OBJECTS):
            if self._draw.below(3) == 0:
                takes_all = name in ("inputs", "outputs")
                found[name] = self._one_of(self._values if takes_all else self._objects)
        if self._draw.below(4) == 0:
            found["error"] = self._one_of([*self._names, ValueError("no"), 5])
        return {name: value for name, value in found.items() if value is not None}

    def block(self) -> None:
        factory = self._one_of([self._tracer.chain, self._tracer.model, self._tracer.tool])
        first, later = self._fields(), self._fields()
        try:
            with factory(self._one_of(self._names), **first) as span:
                span.set(**later)
                self.given[span.id] = {*first, *later}
                if self._draw.below(3) == 0 and len(self.given) < AT_ONCE:
                    self.call()
                if self._draw.below(4) == 0:
                    self.given[span.id].add("error")
                    raise Trouble(self._one_of(self._values))
        except Trouble:
            pass

    def logged(self) -> None:
        fields = self._fields()
        moment = self._one_of([None, 0, 1.5e12, datetime(2026, 1, 2, tzinfo=timezone.utc)])
        event_type = self._one_of(["chain", "model", "tool"])
        made = self._tracer.log_event(
            event_type, self._one_of(self._names), start_time=moment, **fields
        )
        assert made is not None
        self.given[made] = set(fields)

    def opened(self) -> None:
        fields = self._fields()
        span = self._tracer.start_span(self._one_of(self._names), **fields)
        if self._draw.below(2):
            span.first_token()
        span.end(self._one_of(self._values))
        self.given[span.id] = {*fields, "outputs"}

    def decorated(self) -> None:
        metadata, config = self._one_of(self._objects), self._one_of(self._objects)
        ids: list[str] = []

        @self._tracer.tool(self._one_of(self._names), metadata=metadata, config=config)
        def work(*args: Any, **kwargs: Any) -> Any:
            span = self._tracer.current_span()
            assert span is not None
            ids.append(span.id)
            return args

        work(self._one_of(self._values), named=self._one_of(self._values))
        self.given[ids[0]] = {"outputs", "config"}


class Tap:
    """See what goes over the wire: every body fits the schema of its operation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.wrong: list[str] = []
        send = HttpTransport.send

        def seen(transport: HttpTransport, request: Request) -> bytes:
            self.look(request)
            return send(transport, request)

        monkeypatch.setattr(HttpTransport, "send", seen)

    def look(self, request: Request) -> None:
        (schema,) = (
            schema
            for (method, path), schema in BODIES.items()
            if method == request.method and path.match(request.path)
        )
        assert request.body is not None
        body = json.loads(request.body)
        self.wrong += map(str, problems(body, schema))
        for event in body.get("events", []):
            self.events[event["event_id"]] = event


def tracer_of(collector: CollectorProcess, directory: Path) -> Tracer:
    return Tracer(server_url=collector.url, spool_dir=directory / "spool", flush_interval=3600)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(MANY_EXAMPLES, marks=pytest.mark.slow)]
)
def test_f94_whatever_is_recorded_is_taken_by_the_strict_collector(
    examples: int, tmp_path: Path, collector: CollectorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert required_of(Event) <= ALWAYS
    assert json_schema(SessionEventBatch) in BODIES.values()
    tap, tracer = Tap(monkeypatch), tracer_of(collector, tmp_path)
    given_fields: dict[str, set[str]] = {}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(pool=pools, script=st.binary(min_size=400, max_size=400))
    def record(pool: Any, script: bytes) -> None:
        caller, before = Caller(tracer, pool, Draw(script)), tracer.stats().dropped
        while len(caller.given) < AT_ONCE:
            caller.call()
        given_fields.update(caller.given)
        tap.wrong.clear()
        assert tracer.flush(30).ok
        assert tap.wrong == []
        assert tracer.stats().dropped == before
        for event_id, fields in caller.given.items():
            event = tap.events.pop(event_id)
            assert event.keys() - MAYBE == ALWAYS | (fields - MAYBE)
            assert fields - event.keys() == set()

    record()
    assert len(given_fields) >= examples * AT_ONCE
    assert tracer.shutdown(30).ok
    stats = tracer.stats()
    assert (stats.failures, stats.last_error, stats.dropped) == (0, None, {})
    assert stats.delivered == stats.recorded == len(given_fields)
    assert_books(stats)
    rows = stored(collector.db)
    assert_exact(rows, set(given_fields))
    for row in rows:
        assert isinstance(row.inputs, dict)
        assert (row.outputs is not None) == ("outputs" in given_fields[row.event_id])
