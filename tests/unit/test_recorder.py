"""A call begins, a call ends: one frame; what is ours to fail never reaches the caller."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal import events, only, sessions, updates
from programs import run

from tracer.buffer import Buffer
from tracer.clock import Clock, wire_session_id
from tracer.context import CURRENT, Suppression
from tracer.errors import Guard, SpoolFullError
from tracer.event import Shape
from tracer.frame import ENDS, UPDATE
from tracer.memory import PrivateMemory
from tracer.recorder import Recorder
from tracer.segment import Segment
from tracer.spans import INERT_SESSION, INERT_SPAN, Span

SHAPE = Shape("chain", "step")


class FakeClock(Clock):
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000
        self.wall_ns = lambda: self.now_ns
        self.monotonic_ns = lambda: self.now_ns


class Bench:
    """A recorder over private memory, and what it takes to look at it."""

    def __init__(self, memory: PrivateMemory | None = None, **options: Any) -> None:
        self.buffer = Buffer(memory or PrivateMemory(64 << 20), 100_000, 64 << 20)
        self.guard = Guard(logging.getLogger("tracer"))
        self.clock = FakeClock()
        options = {"source": None, "session_name": "default", "clock": self.clock, **options}
        self.recorder = Recorder(self.buffer, self.guard, **options)

    def open(self, shape: Shape = SHAPE, **fields: Any) -> Span:
        span = self.recorder.begin(shape, fields=fields)
        assert span is not None
        return span


@pytest.fixture(autouse=True)
def _nothing_current() -> None:
    CURRENT.set(None)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_event_says_what_when_and_where(bench: Bench) -> None:
    span = bench.open(inputs={"q": 1})
    bench.clock.now_ns += 1_500_000
    bench.recorder.end(span, {"a": 2})
    assert only(bench.buffer) == {
        "event_id": span.id,
        "session_id": bench.recorder.default.id,
        "event_type": "chain",
        "event_name": "step",
        "start_time": 1_700_000_000_000,
        "end_time": 1_700_000_000_001,
        "duration": 1.5,
        "inputs": {"q": 1},
        "outputs": {"a": 2},
        "metadata": {},
    }


def test_the_source_is_on_every_event_and_session() -> None:
    bench = Bench(source="test")
    bench.recorder.end(bench.open())
    assert only(bench.buffer)["source"] == "test"
    assert sessions(bench.buffer)[0]["source"] == "test"


def test_a_session_is_announced_once_and_before_its_events(bench: Bench) -> None:
    for _ in range(3):
        bench.recorder.end(bench.open())
    frames = bench.buffer.read(100, 1 << 30)
    assert [frame.kind for frame in frames] == [2, 1, 1, 1]
    (body,) = sessions(bench.buffer)
    assert body["session_id"] == bench.recorder.default.id
    assert body["session_name"] == "default"
    assert body["start_time"] == 1_700_000_000_000
    assert list(body)[:2] == ["session_id", "session_name"]  # what delivery.py falls back to


def test_a_session_without_events_is_told_only_when_it_ends(bench: Bench) -> None:
    session = bench.recorder.open_session("empty", None, {})
    assert session is not None
    assert bench.buffer.read(100, 1 << 30) == []


def test_parents_are_what_is_open_and_roots_name_none(bench: Bench) -> None:
    outer, inner = bench.open(), bench.open()
    bench.recorder.end(inner)
    bench.recorder.end(outer)
    first, second = events(bench.buffer)
    assert first["parent_id"] == second["event_id"] == outer.id
    assert "parent_id" not in second


def test_an_ended_span_is_never_a_parent(bench: Bench) -> None:
    outer, inner = bench.open(), bench.open()
    bench.recorder.end(outer)  # they overlap: the outer one ends first
    assert CURRENT.get() is inner
    below = bench.open()
    bench.recorder.end(below)
    bench.recorder.end(inner)
    late = bench.open()
    bench.recorder.end(late)
    found = {event["event_id"]: event.get("parent_id") for event in events(bench.buffer)}
    assert found[below.id] == inner.id
    assert found[late.id] is None


def test_ending_twice_writes_once(bench: Bench) -> None:
    span = bench.open()
    bench.recorder.end(span)
    bench.recorder.end(span)
    assert len(events(bench.buffer)) == 1


def test_what_was_set_has_the_last_word_over_the_result(bench: Bench) -> None:
    span = bench.open()
    span.set(outputs={"mine": 1}, error="mine")
    bench.recorder.end(span, {"theirs": 1}, error=ValueError("theirs"))
    assert only(bench.buffer)["outputs"] == {"mine": 1}
    assert only(bench.buffer)["error"] == "mine"


def test_an_output_of_none_is_an_output(bench: Bench) -> None:
    bench.recorder.end(bench.open(), None)
    assert only(bench.buffer)["outputs"] == {"result": None}


def test_set_merges_and_takes_values_as_they_are(bench: Bench) -> None:
    span = bench.open(metadata={"a": 1, "b": 1})
    steps = [1]
    span.set(metadata={"b": 2}, metrics={"n": 1}, outputs={"steps": steps})
    span.set(feedback={"ok": True}, user_properties={"id": "u"}, config={"t": 0}, inputs=[1])
    steps.append(2)
    bench.recorder.end(span)
    event = only(bench.buffer)
    assert event["metadata"] == {"a": 1, "b": 2}
    assert event["outputs"] == {"steps": [1]}
    assert event["inputs"] == {"result": [1]}
    assert (event["metrics"], event["feedback"]) == ({"n": 1}, {"ok": True})
    assert (event["user_properties"], event["config"]) == ({"id": "u"}, {"t": 0})


def test_set_after_the_end_changes_nothing(bench: Bench) -> None:
    span = bench.open()
    bench.recorder.end(span)
    span.set(metadata={"late": 1})
    assert only(bench.buffer)["metadata"] == {}


def test_a_span_shows_what_it_is(bench: Bench) -> None:
    span = bench.open(Shape("tool", "search"))
    assert (span.name, span.event_type) == ("search", "tool")
    assert span.session_id == bench.recorder.default.id
    parsed = UUID(span.id)
    assert (parsed.version, parsed.variant) == (4, RFC_4122)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_error_is_recorded_with_its_type(bench: Bench, error: BaseException, text: str) -> None:
    bench.recorder.end(bench.open(), error=error)
    event = only(bench.buffer)
    assert event["error"] == text
    assert "outputs" not in event


def test_nothing_is_recorded_inside_a_suppression(bench: Bench) -> None:
    outer = bench.open()
    CURRENT.set(Suppression(outer))
    assert bench.recorder.begin(SHAPE) is None
    assert bench.recorder.open_session("s", None, {}) is None
    assert bench.recorder.log_event(SHAPE, 0, 0, {}) is None


def test_two_recorders_never_parent_each_other() -> None:
    one, two = Bench(), Bench()
    a = one.open()
    b = two.open()
    c = one.open()
    d = two.open()
    for bench, span in ((two, d), (one, c), (two, b), (one, a)):
        bench.recorder.end(span)
    assert [e.get("parent_id") for e in events(one.buffer)] == [a.id, None]
    assert [e.get("parent_id") for e in events(two.buffer)] == [b.id, None]
    assert CURRENT.get() is None


def test_a_session_is_current_inside_and_restored_after(bench: Bench) -> None:
    session = bench.recorder.open_session("run", None, {"metadata": {"k": 1}})
    assert session is not None
    bench.recorder.end(bench.open())
    bench.clock.now_ns += 2_000_000
    bench.recorder.close_session(session)
    bench.recorder.end(bench.open())
    inside, outside = events(bench.buffer)
    assert inside["session_id"] == session.id
    assert outside["session_id"] == bench.recorder.default.id
    ((event_id, body),) = updates(bench.buffer)
    assert event_id == session.id
    telemetry = {"tracer": {"telemetry": {"recorded": 1}}}
    assert body == {"end_time": session.start_ms + 2, "duration": 2.0, "metadata": telemetry}
    (end,) = [f for f in bench.buffer.read(100, 1 << 30) if f.kind == UPDATE]
    assert end.flags == ENDS


def test_a_session_inside_a_span_starts_a_tree_of_its_own(bench: Bench) -> None:
    outer = bench.open()
    session = bench.recorder.open_session("inner", None, {})
    assert session is not None
    inner = bench.open()
    bench.recorder.end(inner)
    bench.recorder.close_session(session)
    after = bench.open()
    bench.recorder.end(after)
    bench.recorder.end(outer)
    found = {event["event_id"]: event for event in events(bench.buffer)}
    assert "parent_id" not in found[inner.id]
    assert found[inner.id]["session_id"] == session.id
    assert found[after.id]["parent_id"] == outer.id


def test_an_error_that_ends_a_session_is_kept_with_it(bench: Bench) -> None:
    session = bench.recorder.open_session("run", None, {})
    assert session is not None
    bench.recorder.close_session(session, ValueError("no"))
    bench.recorder.close_session(session, ValueError("twice"))
    ((_, body),) = updates(bench.buffer)
    assert body["metadata"]["error"] == "ValueError: no"


def test_the_default_session_ends_only_if_anything_was_in_it(bench: Bench) -> None:
    bench.recorder.close_default()
    assert updates(bench.buffer) == []
    bench.recorder.end(bench.open())
    bench.recorder.close_default()
    assert [event_id for event_id, _ in updates(bench.buffer)] == [bench.recorder.default.id]


# -- session ids ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "session_id", ["a1b2c3d4-0000-4000-8000-000000000001", "A1B2C3D4-0000-4000-8000-000000000001"]
)
def test_a_uuid_stays_itself(bench: Bench, session_id: str) -> None:
    session = bench.recorder.open_session("s", session_id, {})
    assert session is not None
    assert session.id == session_id.lower()
    bench.recorder.end(bench.open())
    assert "metadata" not in sessions(bench.buffer)[0]


def test_another_session_id_is_mapped_and_kept(bench: Bench) -> None:
    session = bench.recorder.open_session("s", "chat 42", {"metadata": {"k": 1}})
    assert session is not None
    assert session.id == wire_session_id("chat 42")
    bench.recorder.end(bench.open())
    assert sessions(bench.buffer)[0]["metadata"] == {"k": 1, "client_session_id": "chat 42"}


def test_a_default_session_can_be_joined_under_any_id() -> None:
    bench = Bench(session_id="nightly")
    assert bench.recorder.default.id == wire_session_id("nightly")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_becomes_a_session_id(text: str) -> None:
    found = wire_session_id(text)
    assert str(UUID(found)) == found
    assert wire_session_id(found) == found


def test_a_mapped_session_id_is_the_same_in_every_process() -> None:
    known = "43f7f3cf-af57-5e21-b02d-6e0d4ba30a95"
    script = "from tracer.clock import wire_session_id; print(wire_session_id('chat 42'))"
    assert wire_session_id("chat 42") == run(script).out.strip()
    assert UUID(wire_session_id("chat 42")).version == UUID(known).version == 5


# -- what is ours to fail -------------------------------------------------------------------


class FullMemory(PrivateMemory):
    """No room for any segment."""

    def create(self, size: int) -> Segment:
        raise SpoolFullError("full")


class BrokenMemory(PrivateMemory):
    """A defect of ours."""

    def create(self, size: int) -> Segment:
        raise RuntimeError("defect")


def use_everything(bench: Bench) -> None:
    session = bench.recorder.open_session("s", None, {})
    span = bench.recorder.begin(SHAPE, fields={"inputs": {"a": 1}})
    if span is not None:
        span.set(outputs={"b": 1})
        bench.recorder.end(span)
    bench.recorder.log_event(SHAPE, 0, 1.0, {})
    if session is not None:
        bench.recorder.close_session(session)
    bench.recorder.close_default()
    assert CURRENT.get() is None


def test_a_full_buffer_is_a_counted_drop_and_no_failure() -> None:
    bench = Bench(FullMemory(0))
    use_everything(bench)
    assert bench.buffer.books().dropped == {"bytes_full": 2}
    assert bench.guard.count == 0


def test_a_buffer_that_raises_never_reaches_the_call(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(BrokenMemory(0))
    for _ in range(5):
        use_everything(bench)
    assert bench.guard.count >= 10
    assert len(caplog.records) == len({record.getMessage() for record in caplog.records})
    assert len(caplog.records) <= 4


def broken_inputs(_: tuple[Any, ...], __: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("defect")


def test_inputs_that_cannot_be_bound_cost_no_call(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert bench.recorder.begin(SHAPE, broken_inputs) is None
    assert CURRENT.get() is None
    assert bench.guard.count == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    "use",
    [
        lambda: INERT_SPAN.set(inputs=1, error="e"),
        lambda: [INERT_SPAN.id, INERT_SPAN.name, INERT_SPAN.event_type, INERT_SPAN.session_id],
        lambda: [INERT_SESSION.id, INERT_SESSION.name],
    ],
)
def test_what_is_handed_out_while_nothing_is_recorded_takes_everything(
    use: Callable[[], object],
) -> None:
    use()
    assert (INERT_SPAN.id, INERT_SESSION.id) == ("", "")


def test_a_record_between_any_two_steps_of_another_is_no_harm(bench: Bench) -> None:
    """A signal handler or a `__del__` may record wherever ours calls out."""
    inside: list[str] = []

    def also() -> int:
        if len(inside) < 20:
            at = len(inside)
            inside.append("")
            span = bench.recorder.begin(SHAPE)
            assert span is not None
            bench.recorder.end(span)
            inside[at] = span.id
        return bench.clock.now_ns

    before = CURRENT.get()
    bench.clock.wall_ns = also
    bench.clock.monotonic_ns = also
    outer = bench.open(inputs={"a": 1})
    bench.recorder.end(outer)
    assert CURRENT.get() is before
    ids = [event["event_id"] for event in events(bench.buffer)]
    assert len(ids) == len(set(ids))
    assert sorted(ids) == sorted([*inside, outer.id])
