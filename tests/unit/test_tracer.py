"""One tracer: wired together, alive, flushed, shut down, dropped."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal import by_name, events, local_tracer, only, sessions, updates
from programs import assert_books, environment, run, wait_until

from tracer import threads
from tracer.context import CURRENT
from tracer.errors import ConfigError
from tracer.spans import Span
from tracer.tracer import Tracer


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    CURRENT.set(None)
    with local_tracer(tmp_path) as running:
        yield running
    assert CURRENT.get() is None, "something was left current"


# -- start_span --------------------------------------------------------------------------------


def test_a_started_span_is_current_nowhere_and_ends_in_any_thread(tracer: Tracer) -> None:
    with tracer.chain("outer") as outer:
        span = tracer.start_span("callback", event_type="tool", inputs={"q": 1})
        assert tracer.current_span() is outer
        with tracer.chain("beside"):
            pass
    child = tracer.start_span("child", parent=span)

    def elsewhere() -> None:
        child.end()
        span.end({"a": 1})
        span.end(2)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    found = by_name(tracer)
    assert found["callback"]["parent_id"] == outer.id
    assert found["beside"]["parent_id"] == outer.id
    assert found["child"]["parent_id"] == span.id
    assert (found["callback"]["event_type"], found["callback"]["inputs"]) == ("tool", {"q": 1})
    assert found["callback"]["outputs"] == {"a": 1}
    assert "outputs" not in found["child"]


def test_a_started_span_keeps_its_error_and_its_first_token(tracer: Tracer) -> None:
    span = tracer.start_span("answer", event_type="model")
    span.first_token()
    stamped = dict(span.noted or {})
    span.first_token()
    assert span.noted == stamped
    span.end(error=ValueError("no"))
    span.first_token()
    event = only(tracer)
    assert event["error"] == "ValueError: no"
    assert event["metadata"]["time_to_first_token"] == stamped["time_to_first_token"]
    assert event["metadata"]["exception"] == {"type": "ValueError", "message": "no"}


def test_a_span_started_where_nothing_is_recorded_takes_everything(tracer: Tracer) -> None:
    with tracer.suppress():
        span = tracer.start_span("nothing")
    span.set(inputs={"a": 1})
    span.first_token()
    tracer.start_span("below nothing", parent=span).end()
    span.end()
    assert [e["event_name"] for e in events(tracer)] == ["below nothing"]


def test_a_span_may_be_started_below_a_session(tracer: Tracer) -> None:
    with tracer.session("chat") as session:
        pass
    tracer.start_span("late", parent=session).end()
    assert only(tracer)["session_id"] == session.id
    with pytest.raises(TypeError, match="unknown argument colour"):
        tracer.start_span("x", colour=1)  # type: ignore[call-arg]  # that is the point


# -- what a call leaves ------------------------------------------------------------------------


def test_an_exception_says_where_it_came_from(tracer: Tracer) -> None:
    @tracer.tool
    def inner() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error

    with pytest.raises(RuntimeError):
        inner()
    found = only(tracer)["metadata"]["exception"]
    assert (found["type"], found["message"]) == ("RuntimeError", "second")
    assert [
        line.rpartition(" in ")[2].rpartition(".")[2] for line in found["traceback"].splitlines()
    ] == ["inner"]
    assert [(e["type"], e["message"]) for e in found["from"]] == [("KeyError", "'first'")]


def test_a_deep_traceback_keeps_both_ends(tracer: Tracer) -> None:
    @tracer.tool
    def start() -> None:
        deeper(200)

    def deeper(left: int) -> None:
        if not left:
            raise ValueError("deep")
        deeper(left - 1)

    with pytest.raises(ValueError, match="deep"):
        start()
    lines = only(tracer)["metadata"]["exception"]["traceback"].splitlines()
    assert len(lines) == 51
    assert lines[10] == "... 152 more frames ..."
    assert lines[0].endswith("start")
    assert lines[-1].endswith("deeper")


def test_tracebacks_can_be_left_out(tmp_path: Path) -> None:
    with local_tracer(tmp_path, tracebacks=False) as tracer:
        with pytest.raises(ZeroDivisionError):
            tracer.tool(lambda: 1 // 0)()
        event = only(tracer)
        assert event["error"].startswith("ZeroDivisionError")
        assert event["metadata"] == {}


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_sampling_takes_whole_sessions_the_same_in_every_process(
    tmp_path: Path, rate: float
) -> None:
    taken: list[set[str]] = []
    for name in ("one", "two"):
        with local_tracer(tmp_path / name, sample_rate=rate) as tracer:
            for n in range(400):
                with tracer.session("s", session_id=f"chat {n}") as session, tracer.chain("a"):
                    tracer.tool(lambda: None)()
                    tracer.log_event("tool", "b")
                    tracer.enrich_session(outputs={"x": 1})
                assert session.id
            found = events(tracer)
            ids = {event["session_id"] for event in found}
            assert len(found) == 3 * len(ids)
            assert {s["session_id"] for s in sessions(tracer)} == ids
            assert {event_id for event_id, _ in updates(tracer)} == ids
            taken.append(ids)
    assert taken[0] == taken[1]
    assert abs(len(taken[0]) - 400 * rate) <= 60


def test_what_is_captured_is_decided_by_the_tracer_unless_the_decorator_says(
    tmp_path: Path,
) -> None:
    with local_tracer(tmp_path, capture_inputs=False, capture_outputs=False) as tracer:
        tracer.tool(lambda a: a)(1)
        tracer.tool(capture_inputs=True, capture_outputs=True)(lambda a: a)(2)
        with tracer.tool("block", inputs={"a": 3}) as span:
            span.set(outputs=3)
        first, second, third = events(tracer)
        assert first["inputs"] == {}
        assert "outputs" not in first
        assert (second["inputs"], second["outputs"]) == ({"a": 2}, {"result": 2})
        assert (third["inputs"], third["outputs"]) == ({"a": 3}, {"result": 3})


def test_enrichment_of_an_open_span_by_its_id_is_part_of_its_event(tracer: Tracer) -> None:
    with tracer.chain("outer") as outer, tracer.tool("inner"):
        tracer.enrich_span(event_id=outer.id, feedback={"rating": 5})
    assert by_name(tracer)["outer"]["feedback"] == {"rating": 5}
    tracer.enrich_span(event_id=outer.id, feedback={"rating": 1})
    assert updates(tracer)[-1] == (outer.id, {"feedback": {"rating": 1}})


def test_enrichment_of_a_span_that_is_open_elsewhere_is_part_of_its_event(tracer: Tracer) -> None:
    span = tracer.start_span("elsewhere")
    thread = threading.Thread(
        target=lambda: tracer.enrich_span(event_id=span.id, feedback={"rating": 5})
    )
    thread.start()
    thread.join()
    span.end()
    assert by_name(tracer)["elsewhere"]["feedback"] == {"rating": 5}
    assert [event_id for event_id, _ in updates(tracer)] == []


def test_what_has_ended_is_not_kept_as_open(tracer: Tracer) -> None:
    opened = tracer._recorder.open
    lengths = []

    @tracer.chain
    def raises() -> None:
        lengths.append(len(opened))
        raise KeyError

    with pytest.raises(KeyError):
        raises()
    tracer.log_event("tool", "was")
    assert lengths == [1]
    span = tracer.start_span("by hand")
    assert list(opened) == [span.id]
    span.end()
    assert not opened


# -- log_event ---------------------------------------------------------------------------------


def test_something_that_already_happened_is_recorded_below_the_current(tracer: Tracer) -> None:
    with tracer.chain("outer") as outer:
        event_id = tracer.log_event(
            "model",
            "answer",
            inputs={"q": 1},
            outputs=[1],
            start_time=1000,
            end_time=1250.5,
            config={"model": "m"},
            metrics={"n": 1},
            error="late",
        )
        assert tracer.current_span() is outer
    event = events(tracer)[0]
    assert event["event_id"] == event_id
    assert event["parent_id"] == outer.id
    assert (event["start_time"], event["end_time"], event["duration"]) == (1000, 1250, 250.5)
    assert (event["inputs"], event["outputs"]) == ({"q": 1}, {"result": [1]})
    assert (event["config"], event["metrics"]) == ({"model": "m"}, {"n": 1})
    assert event["error"] == "late"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"start_time": 1000}, (1000, 1000, 0)),
        ({"end_time": 1000}, (1000, 1000, 0)),
        ({"start_time": 2000, "end_time": 1000}, (2000, 2000, 0)),
        (
            {
                "start_time": datetime(2026, 1, 1, tzinfo=timezone.utc),
                "end_time": datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            },
            (1767225600000, 1767225600000, 0),
        ),
    ],
)
def test_times_are_milliseconds_or_datetimes(
    tracer: Tracer, times: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    tracer.log_event("tool", "t", **times)
    event = only(tracer)
    assert (event["start_time"], event["end_time"], event["duration"]) == expected


@pytest.mark.parametrize(
    "use",
    [
        lambda t: t.log_event("bogus", "x"),
        lambda t: t.log_event("tool", "x", start_time="yesterday"),
        lambda t: t.log_event("tool", "x", start_time=float("nan")),
        lambda t: t.log_event("tool", "x", end_time=float("inf")),
    ],
)
def test_what_cannot_be_logged_never_raises(
    tracer: Tracer, use: Callable[[Tracer], object], caplog: pytest.LogCaptureFixture
) -> None:
    assert use(tracer) is None
    assert use(tracer) is None
    assert events(tracer) == []
    assert len(caplog.records) == 1
    assert tracer.stats().failures == 2


# -- enrich ------------------------------------------------------------------------------------


def test_enrich_span_merges_into_the_innermost_open_span(tracer: Tracer) -> None:
    with tracer.chain("outer"):
        with tracer.tool("inner"):
            tracer.enrich_span(metadata={"a": 1}, outputs={"o": 1}, feedback={"ok": True})
            tracer.enrich_span(metadata={"b": 2})
        tracer.enrich_span(metadata={"outer": 1})
    tracer.enrich_span(metadata={"nobody": 1})
    inner, outer = events(tracer)
    assert inner["metadata"] == {"a": 1, "b": 2}
    assert (inner["outputs"], inner["feedback"]) == ({"o": 1}, {"ok": True})
    assert outer["metadata"] == {"outer": 1}


def test_enrich_span_by_id_is_an_update_of_an_event_that_is_over(tracer: Tracer) -> None:
    with tracer.session("s"), tracer.tool("t") as span:
        pass
    tracer.enrich_span(event_id=span.id, feedback={"rating": 5}, metadata={"late": True})
    assert updates(tracer)[-1] == (span.id, {"feedback": {"rating": 5}, "metadata": {"late": True}})


def test_enrich_session_is_an_update_of_the_current_one(tracer: Tracer) -> None:
    with tracer.session("s") as session, tracer.chain("c"):
        tracer.enrich_session(outputs={"status": "ok"}, metrics={"n": 1})
    tracer.enrich_session(metadata={"default": 1})
    assert updates(tracer)[0] == (session.id, {"outputs": {"status": "ok"}, "metrics": {"n": 1}})
    assert updates(tracer)[-1] == (tracer.current_session().id, {"metadata": {"default": 1}})


def test_enrich_session_by_id_joins_and_does_not_open(tracer: Tracer) -> None:
    tracer.enrich_session(session_id="chat 42", feedback={"ok": True})
    with tracer.session("s", session_id="chat 42") as session:
        pass
    assert updates(tracer)[0] == (session.id, {"feedback": {"ok": True}})


@pytest.mark.parametrize("event_id", ["abc", "é" * 36, "../" * 12, "", "x" * 500])
def test_an_id_that_is_none_goes_nowhere(
    tracer: Tracer, event_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracer.enrich_span(event_id=event_id, metadata={"a": 1})
    assert updates(tracer) == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda t: t.log_event("tool", "t", duration=5),
        lambda t: t.log_event("tool", "t", unknown=5),
        lambda t: t.enrich_session(inputs={"a": 1}),
        lambda t: t.enrich_session(unknown=1),
        lambda t: t.enrich_span(event_id="0" * 8 + "-0000" * 3 + "-" + "0" * 12, inputs=1),
    ],
)
@pytest.mark.parametrize("disabled", [True, False])
def test_a_field_the_server_would_refuse_is_refused_here(
    tmp_path: Path, use: Callable[[Tracer], object], *, disabled: bool
) -> None:
    with local_tracer(tmp_path, disable_tracing=disabled) as tracer:
        with pytest.raises(TypeError, match="unknown argument"):
            use(tracer)
        assert events(tracer) == []
        assert updates(tracer) == []


def test_nothing_is_enriched_while_suppressed_or_switched_off(tmp_path: Path) -> None:
    event_id = "00000000-0000-4000-8000-000000000000"
    with local_tracer(tmp_path / "off", disable_tracing=True) as off:
        off.enrich_session(metadata={"a": 1})
        off.enrich_span(event_id=event_id, metadata={"a": 1})
        assert updates(off) == []
    with local_tracer(tmp_path / "on") as tracer, tracer.suppress():
        tracer.enrich_session(metadata={"a": 1})
        tracer.enrich_span(event_id=event_id, metadata={"a": 1})
        assert updates(tracer) == []


def test_a_session_id_may_be_a_uuid(tracer: Tracer) -> None:
    given = UUID("a1b2c3d4-0000-4000-8000-000000000001")
    with tracer.session("s", session_id=given) as session:  # type: ignore[call-overload]  # natural to pass
        assert session.id == str(given)


# -- current -----------------------------------------------------------------------------------


def test_current_span_and_session_follow_the_blocks(tracer: Tracer) -> None:
    default = tracer.current_session()
    assert tracer.current_span() is None
    with tracer.session("s") as session:
        assert tracer.current_session() is session
        assert tracer.current_span() is None
        with tracer.chain("c") as span:
            assert tracer.current_span() is span
            assert tracer.current_session() is session
            assert isinstance(span, Span)
            assert span.session_id == session.id
    assert tracer.current_session() is default


def test_session_names_come_from_argument_or_program(tmp_path: Path) -> None:
    with local_tracer(tmp_path, session_name="mine") as named:
        named.tool(lambda: None)()
        with named.session():
            named.tool(lambda: None)()
        assert [s["session_name"] for s in sessions(named)] == ["mine", "mine"]


def test_a_default_session_is_joined_by_id_in_every_process(tmp_path: Path) -> None:
    with local_tracer(tmp_path, session_id="nightly run") as tracer:
        tracer.tool(lambda: None)()
        (opened,) = sessions(tracer)
    assert opened["metadata"] == {"client_session_id": "nightly run"}
    program = """
        from tracer import Tracer
        print(Tracer(local=True, durable=False, session_id="nightly run").current_session().id)
    """
    assert run(program).out.strip() == opened["session_id"]


def test_source_is_an_option(tmp_path: Path) -> None:
    with local_tracer(tmp_path, source="test") as tracer:
        tracer.tool(lambda: None)()
        assert (only(tracer)["source"], sessions(tracer)[0]["source"]) == ("test", "test")


# -- every event fits ----------------------------------------------------------------------


anything: Any = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.none(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=8,
)


given_fields: Any = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ["inputs", "outputs", "config", "metadata", "metrics", "feedback", "user_properties"],
        anything,
    )
    | {"error": st.text(st.characters())},
)
names = st.text(st.characters())


@given(st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_whatever_is_recorded_fits_the_contract(data: st.DataObject) -> None:
    tracer = Tracer(local=True, durable=False)

    @tracer.tool(data.draw(names), config=data.draw(anything), metadata=data.draw(anything))
    def traced(first: object, *rest: object, last: object = 1, **more: object) -> object:
        tracer.enrich_span(**data.draw(given_fields))
        return data.draw(anything)

    with tracer.session(data.draw(names), session_id=data.draw(st.text())):
        traced(data.draw(anything), data.draw(anything), last=data.draw(anything), x=1)
        with tracer.trace(data.draw(names), **data.draw(given_fields)) as span:
            span.set(**data.draw(given_fields))
        tracer.log_event("model", data.draw(names), **data.draw(given_fields))
    # reading back checks each against schema.py
    assert len(events(tracer)) == 3
    assert len(sessions(tracer)) == 1
    assert tracer.stats().failures == 0
    tracer.shutdown()


# -- life --------------------------------------------------------------------------------------


def test_the_books_balance_in_local_mode(tmp_path: Path) -> None:
    tracer = Tracer(local=True, spool_dir=tmp_path)
    for _ in range(10):
        with tracer.chain("c"):
            pass
    found = tracer.stats()
    assert (found.recorded, found.spooled, found.delivered, found.failures) == (10, 10, 0, 0)
    assert_books(found)
    assert found.mode.startswith("D: journal in")
    result = tracer.flush()
    assert (result.ok, result.spooled, result.reason) == (True, 10, None)
    tracer.shutdown()
    assert_books(tracer.stats())


def test_what_was_recorded_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    program = """
        import os, sys
        from tracer import Tracer
        tracer = Tracer(local=True, spool_dir=sys.argv[1])
        tracer.tool(lambda marker: None)("written before the end")
        os._exit(0)
    """
    assert run(program, tmp_path).code == 0
    assert any(b"written before the end" in f.read_bytes() for f in tmp_path.glob("**/*.segment"))


def test_what_is_recorded_after_shutdown_is_a_counted_drop(tmp_path: Path) -> None:
    tracer = Tracer(local=True, spool_dir=tmp_path)
    with tracer.chain("open"):
        tracer.tool(lambda: None)()
        assert tracer.shutdown().ok
    tracer.tool(lambda: None)()
    found = tracer.stats()
    assert found.dropped == {"shutdown": 2}
    assert_books(found)


def test_shutdown_and_flush_again_do_nothing(tmp_path: Path) -> None:
    tracer = Tracer(local=True, spool_dir=tmp_path)
    tracer.tool(lambda: None)()
    first = tracer.shutdown()
    assert tracer.shutdown().spooled == tracer.flush().spooled == first.spooled == 1


def test_a_shut_down_tracer_has_ended_its_default_session(tmp_path: Path) -> None:
    tracer = Tracer(local=True, durable=False)
    tracer.tool(lambda: None)()
    tracer._recorder.close_default()
    ((event_id, body),) = updates(tracer)
    assert event_id == tracer.current_session().id
    assert body["duration"] >= 0
    tracer.shutdown()


def test_a_tracer_that_is_switched_off_records_nothing(tmp_path: Path) -> None:
    with local_tracer(tmp_path / "spool", disable_tracing=True) as tracer:
        assert tracer.tool(lambda x: x)(1) == 1
        with tracer.session("s"), tracer.chain("c") as span:
            span.set(outputs=1)
            tracer.enrich_span(outputs=1)
        assert tracer.log_event("tool", "t") is None
        assert tracer.current_span() is None
        assert tracer.flush().ok
        assert tracer.stats().recorded == 0
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "argument batch_size: must be from 1 to 5,000, not 0"),
        ({"unknown": 1}, "unknown option 'unknown'; allowed are api_key"),
        ({"server_url": "ftp://x"}, "argument server_url: must be a http:// or https:// URL"),
        ({"api_key": "hh_secret\n1"}, "argument api_key: character 10 of 11 is not visible ASCII"),
        ({"timeout": "soon"}, "argument timeout: must be a number, not 'soon'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Tracer(**options)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HH_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match=r"^HH_TIMEOUT: must be a number, not 'soon'$"):
        Tracer(local=True)


def test_local_mode_that_nobody_asked_for_says_where_events_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Tracer(spool_dir=tmp_path).shutdown()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path) in record.getMessage()
    assert "tracer serve" in record.getMessage()
    caplog.clear()
    Tracer(spool_dir=tmp_path, local=True).shutdown()
    assert caplog.records == []


def test_a_directory_that_cannot_be_used_means_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    tracer = Tracer(local=True, spool_dir=tmp_path / "file")
    tracer.tool(lambda: None)()
    assert tracer.stats().mode.startswith("M: ")
    assert tracer.stats().queued == 1
    assert len(caplog.records) == 1
    tracer.shutdown()


# -- what is left behind -----------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("tracer")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "options"),
    [(1000, {"local": True}), (50, {"api_key": "hh_key", "durable": False})],  # TLS: 25 ms each
)
def test_dropped_tracers_leave_no_thread_and_no_file(
    tmp_path: Path, number: int, options: dict[str, Any]
) -> None:
    gc.collect()
    files, threads = open_files(), len(ours())
    for n in range(number):
        tracer = Tracer(spool_dir=tmp_path, max_queue_bytes=2 << 20, **options)
        if options == {"local": True} and n % 50 == 0:
            tracer.tool(lambda: None)()
        del tracer
    gc.collect()
    wait_until(lambda: len(ours()) == threads and open_files() <= files + 1)


def test_a_tracer_lives_as_long_as_what_it_decorated(tmp_path: Path) -> None:
    def decorate() -> Callable[[], None]:
        return Tracer(local=True, spool_dir=tmp_path).tool(lambda: None)

    func = decorate()
    gc.collect()
    func()
    del func
    gc.collect()
    written = b"".join(f.read_bytes() for f in tmp_path.glob("**/*.segment"))
    assert written.count(b'"event_type":"tool"') == 1


def test_dropping_a_tracer_keeps_its_events_on_disk(tmp_path: Path) -> None:
    tracer = Tracer(local=True, spool_dir=tmp_path)
    tracer.tool(lambda marker: None)("kept")
    del tracer
    gc.collect()
    assert any(b"kept" in f.read_bytes() for f in tmp_path.glob("**/*.segment"))


EXITS = """
import json, sys, threading
from tracer import Tracer
tracer = Tracer(local=True, spool_dir=sys.argv[1])
with tracer.chain("open"):
    tracer.tool(lambda: None)()
    print(json.dumps([t.name for t in threading.enumerate()]))
    if sys.argv[2] == "exit":
        sys.exit(3)
    if sys.argv[2] == "raise":
        raise RuntimeError("the program's own")
"""


@pytest.mark.parametrize(("way", "code"), [("end", 0), ("exit", 3), ("raise", 1)])
def test_the_exit_is_the_programs_own(tmp_path: Path, way: str, code: int) -> None:
    done = run(EXITS, tmp_path, way, env=environment(PYTHONWARNINGS="error"))
    assert done.code == code
    assert json.loads(done.out) == ["MainThread", "tracer-flusher"]
    assert "tracer" not in done.err.replace("Tracer", "").replace(str(Path.cwd()), "")
    written = b"".join(f.read_bytes() for f in tmp_path.glob("**/*.segment"))
    assert written.count(b'"event_name":"open"') == 1


def nothing() -> None:
    """Do nothing."""


# -- elsewhere ---------------------------------------------------------------------------------


def test_threads_begin_below_the_current_span_unless_told_not_to(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as tracer:
        with tracer.chain("outer") as outer:
            thread = threading.Thread(target=tracer.tool(nothing))
            thread.start()
            thread.join()
        assert events(tracer)[0]["parent_id"] == outer.id
    threads.uninstall()
    with local_tracer(tmp_path, propagate_threads=False) as tracer:
        with tracer.chain("outer"):
            thread = threading.Thread(target=tracer.tool(nothing))
            thread.start()
            thread.join()
        assert "parent_id" not in events(tracer)[0]


def test_headers_lead_to_the_same_session_in_another_service(tmp_path: Path) -> None:
    with local_tracer(tmp_path / "a") as here, local_tracer(tmp_path / "b") as there:
        with here.session("chat 42") as session, here.chain("ask") as span:
            headers = here.inject({"accept": "*/*"})
        with there.extract(headers) as joined, there.tool("answer"):
            assert joined.id == session.id
        event = only(there)
        assert event["session_id"] == session.id
        assert event["parent_id"] == span.id
        assert [s["session_name"] for s in sessions(there)] == ["chat 42"]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_sampling_decision_travels(tmp_path: Path, rate: float) -> None:
    with (
        local_tracer(tmp_path / "a", sample_rate=rate) as here,
        local_tracer(tmp_path / "b", sample_rate=1.0 - rate) as there,
    ):
        with here.session("chat"):
            headers = here.inject()
        with there.extract(headers), there.tool("answer"):
            pass
        assert len(events(there)) == rate


def test_where_nothing_is_recorded_headers_stay_as_they_are(tmp_path: Path) -> None:
    off = Tracer(disable_tracing=True)
    assert off.inject({"a": "b"}) == {"a": "b"}
    assert off.inject() == {}
    with local_tracer(tmp_path) as tracer, tracer.session("s"):
        headers = tracer.inject()
    with off.extract(headers), off.tool("nothing"):
        pass
    assert off.stats().recorded == 0


def test_log_records_name_session_and_event(
    tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(tracer.logging_filter())
    logger = logging.getLogger("app")
    logger.warning("outside")
    with tracer.session("s") as session, tracer.tool("t") as span:
        logger.warning("inside")
    found = [(r.__dict__["hh_session_id"], r.__dict__["hh_event_id"]) for r in caplog.records]
    assert found == [("", ""), (session.id, span.id)]


def test_a_remote_span_takes_everything_and_keeps_nothing(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as tracer:
        with tracer.session("s"), tracer.chain("c"):
            headers = tracer.inject()
        before = len(events(tracer))
        with tracer.extract(headers):
            remote = tracer.current_span()
            assert remote is not None
            remote.set(outputs=1)
            remote.first_token()
            remote.end()
            tracer.enrich_span(metrics={"n": 1})
        assert len(events(tracer)) == before
        assert tracer.stats().failures == 0


# -- redaction ---------------------------------------------------------------------------------

KEY = "sk-proj-" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA" * 2


def test_secrets_are_masked_in_every_field_before_the_queue(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as tracer:

        @tracer.tool(config={"key": KEY}, metadata={"password": "hunter2", "team": "a"})
        def call(api_key: str, max_tokens: int) -> dict[str, str]:
            tracer.enrich_span(metrics={"used": KEY}, feedback={"by": KEY}, metadata={"m": KEY})
            tracer.enrich_span(user_properties={"token": KEY})
            raise ValueError(f"{KEY} is refused")

        @tracer.model
        def stream() -> Iterator[Any]:
            yield {"chunk": KEY[:20]}
            yield {"secret": "hunter2", "chunk": KEY}

        @tracer.model
        def pieces() -> Iterator[str]:
            yield KEY[:30]
            yield KEY[30:]

        with tracer.session("chat", inputs={"q": KEY}, metadata={"password": "hunter2"}) as session:
            with pytest.raises(ValueError, match="is refused"):
                call("hunter2", 5)
            assert list(pieces())
            assert list(stream())
            tracer.log_event("tool", "late", inputs={"password": "hunter2"}, outputs=KEY)
            tracer.enrich_session(outputs={"answer": KEY})
        tracer.enrich_span(event_id=session.id, feedback={"password": "hunter2"})
        raw = b"".join(p.read_bytes() for p in tmp_path.glob("*.segment"))
        assert b"[redacted" in raw
        assert KEY.encode() not in raw
        assert b"hunter2" not in raw
        found = by_name(tracer)["call"]
        assert found["inputs"] == {"api_key": "[redacted]", "max_tokens": 5}
        assert found["metadata"]["team"] == "a"
        assert tracer.stats().redaction_failures == 0


def test_redaction_can_be_switched_off_extended_and_replaced(tmp_path: Path) -> None:
    def last(tracer: Tracer) -> Any:
        tracer.log_event("tool", "t", inputs={"customer_id": "EMP-77", "password": "p4ssword"})
        return events(tracer)[-1]["inputs"]

    with local_tracer(tmp_path / "off", redact=False) as tracer:
        assert last(tracer) == {"customer_id": "EMP-77", "password": "p4ssword"}
    with local_tracer(tmp_path / "keys", redact_keys=["customer_id"]) as tracer:
        assert last(tracer) == {"customer_id": "[redacted]", "password": "[redacted]"}
    with local_tracer(tmp_path / "patterns", redact_patterns=[r"EMP-\d+"]) as tracer:
        assert "EMP-77" not in str(last(tracer))
    with local_tracer(tmp_path / "hook", redact=lambda field: {"only": list(field)}) as tracer:
        assert last(tracer) == {"only": ["customer_id", "password"]}


def test_a_redactor_that_fails_lets_nothing_out(tmp_path: Path) -> None:
    def fails(field: Any) -> Any:
        raise RuntimeError(str(field))

    with local_tracer(tmp_path, redact=fails) as tracer:
        assert tracer.tool(lambda secret: secret)("s3cr3t") == "s3cr3t"
        raw = b"".join(p.read_bytes() for p in tmp_path.glob("*.segment"))
        assert b"s3cr3t" not in raw
        assert len(events(tracer)) == 1
        assert tracer.stats().redaction_failures >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"redact": "maybe"}, "argument redact: must be 1, 0, true, false"),
        ({"redact_keys": "password"}, "argument redact_keys: must be a list of names"),
        ({"redact_keys": ["-"]}, r"redact_keys\[0\]: must be a name"),
        ({"redact_patterns": ["("]}, r"redact_patterns\[0\]: is no regular expression"),
    ],
)
def test_a_wrong_redaction_is_refused_with_its_name(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Tracer(local=True, spool_dir=tmp_path, **options)


# -- the size of an event ----------------------------------------------------------------------


def test_an_event_is_cut_to_its_bound_largest_fields_first(tmp_path: Path) -> None:
    with local_tracer(tmp_path, max_event_bytes=8192) as tracer:
        with tracer.tool("big", inputs={"q": "small"}) as span:
            span.set(outputs={"text": "x" * 7000, "list": list(range(3000))}, metrics={"n": 1})
            span.set(metadata={"page": "y" * 7000})
        event = only(tracer)
        assert len(json.dumps(event, separators=(",", ":"))) <= 8192
        assert (event["inputs"], event["metrics"]) == ({"q": "small"}, {"n": 1})
        assert event["outputs"].keys() >= {"text", "list"}
        assert "sha256" in str(event["metadata"])
        assert tracer.stats().truncated_values > 0
        tracer.enrich_session(outputs={"text": "x" * 20_000}, metadata={"y": "y" * 20_000})
        assert len(json.dumps(updates(tracer)[-1][1])) <= 8192 + 100
        with tracer.session("s", inputs={"x": "x" * 20_000}), tracer.tool("t"):
            pass
        assert max(len(json.dumps(s)) for s in sessions(tracer)) <= 8192 + 100
