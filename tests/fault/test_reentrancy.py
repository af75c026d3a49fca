"""Faults F67 to F72: what records while we work, on any thread, neither hangs nor echoes."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from fakes import Answer, ContractServer, Seen
from journal import events, local_tracer, only
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from programs import assert_books, environment, run, wait_until

import tracer
from tracer import Tracer

RUNS = [pytest.param(1, id="once"), pytest.param(20, id="20", marks=pytest.mark.slow)]


def tracer_of(server: ContractServer, mode: str, directory: Path, **options: Any) -> Tracer:
    return Tracer(
        server_url=server.url,
        durable=mode == "D",
        spool_dir=directory / "spool",
        flush_interval=0.5,
        **options,
    )


# What both programs below end with: who recorded what is compared with what arrived.
REPORT = """
assert t.flush(30).ok
t.shutdown(30)
s = t.stats()
placed = s.delivered + s.queued + s.in_flight + s.spooled + sum(s.dropped.values())
assert s.recorded == placed, s
print(json.dumps({"ids": ids, "recorded": s.recorded, "reentrant": s.reentrant_records,
                  "dropped": s.dropped, "made": made}))
"""

SIGNALS = """
import json, signal, tracer
t = tracer.init(batch_size=100)
ids, made = [], {"main": 0, "handler": 0}

def record(who):
    with t.tool(who, inputs={"text": "x" * 300}) as span:
        made[who] += 1
    ids.append(span.id)

inside = 0

def handle(*_):
    global inside
    inside += 1
    if inside < 5:  # the signals come faster than they are handled
        record("handler")
    if inside == 1 and made["handler"] % 100 == 0:
        t.stats()
    inside -= 1

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.00015, 0.00015)
while made["handler"] < 10_000:
    record("main")
    if made["main"] % 5000 == 0:
        t.flush(0.05)  # waits while the handler records
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.timeout(600)
def test_f67_a_signal_handler_records_while_the_program_does(
    runs: int, server: ContractServer, mode: str, tmp_path: Path
) -> None:
    for number in range(runs):
        said = reported(SIGNALS, server, mode, tmp_path / str(number))
        assert said["made"]["handler"] >= 10_000
        assert said["recorded"] == sum(said["made"].values()) == len(said["ids"])
        # a handler that comes while a segment is made, and again, may find no room: it is counted
        assert said["dropped"].keys() <= {"spool_io", "bytes_full"}
        found = server.events.keys() & set(said["ids"])
        assert len(found) == said["recorded"] - sum(said["dropped"].values())
    assert server.resent == 0


FINALIZERS = """
import gc, json, weakref, tracer
t = tracer.init(batch_size=10)
ids, made = [], {"main": [], "finalizer": [], "callback": [], "collector": []}

def record(who):
    with t.tool(who) as span:
        pass
    if span.id:  # else on the thread that sends, where nothing is recorded
        ids.append(span.id)
    made[who].append(1)  # in one step: two threads record

class Thing:
    def __init__(self):
        self.me = self
    def __del__(self):
        record("finalizer")

kept, busy = {}, []

def collected(phase, info):
    if not busy and len(ids) < 20_000:
        busy.append(1)  # what it allocates itself starts the next collection
        record("collector")
        busy.clear()

gc.callbacks.append(collected)
gc.set_threshold(1)
for n in range(200):
    thing = Thing()
    kept[n] = weakref.ref(thing, lambda _: record("callback"))
    del thing
    record("main")
    if n % 50 == 49:
        assert t.flush(40).ok
gc.set_threshold(700)
gc.collect()
gc.callbacks.clear()
made = {who: len(times) for who, times in made.items()}
"""


# Before 3.12 a collection may begin within `ContextVar.set`; a finalizer that sets one, too, then
# frees what the first is reading, and the interpreter crashes (a dozen lines without us do so).
@pytest.mark.skipif(sys.version_info < (3, 12), reason="CPython crashes in ContextVar.set")
@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.timeout(600)
def test_f68_finalizers_record_while_we_record_and_while_we_send(
    runs: int, server: ContractServer, mode: str, tmp_path: Path
) -> None:
    """Collections happen on the thread that sends, too: what records there is counted."""
    for number in range(runs):
        said = reported(FINALIZERS, server, mode, tmp_path / str(number))
        made = said["made"]
        assert (made["main"], made["finalizer"], made["callback"]) == (200, 200, 200)
        assert said["recorded"] == len(said["ids"])
        assert said["recorded"] + said["reentrant"] == sum(made.values())
        assert said["dropped"] == {}
        assert server.events.keys() >= set(said["ids"])
    assert server.resent == 0


# -- our own work is watched --------------------------------------------------------------------


class Recording(logging.Handler):
    """Record an event for each line any library logs."""

    def __init__(self, t: Tracer) -> None:
        super().__init__(logging.DEBUG)
        self.lines = 0
        self._tracer = t

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        with self._tracer.tool("log", inputs={"line": record.getMessage()}):
            pass


@pytest.fixture
def decorated_httpx(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tracer], None]:
    """Return what decorates every way in httpx, and in the engine inside it, to send a request."""

    def decorate(t: Tracer) -> None:
        for owner, name in (
            (httpx.Client, "send"),
            (httpx.Client, "request"),
            (httpx.HTTPTransport, "handle_request"),
            (httpx.Response, "iter_raw"),
            (httpcore.ConnectionPool, "handle_request"),
            (httpcore.HTTPConnection, "handle_request"),
        ):
            monkeypatch.setattr(owner, name, t.chain(getattr(owner, name)))

    return decorate


@pytest.fixture
def spans_of_httpx() -> Iterator[InMemorySpanExporter]:
    """Instrument httpx as OpenTelemetry does; what it makes of our requests is kept."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield kept
    instrumentor.uninstrument()


@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_f69_one_event_is_two_requests_and_nothing_of_them_is_an_event(
    seconds: int,
    server: ContractServer,
    mode: str,
    tmp_path: Path,
    decorated_httpx: Callable[[Tracer], None],
    spans_of_httpx: InMemorySpanExporter,
) -> None:
    t = tracer_of(server, mode, tmp_path)
    decorated_httpx(t)
    handler, root = Recording(t), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with t.tool("mine"):
            pass
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert t.flush(10).ok  # what echoed would be sent at once, and echo again
        assert [e["event_name"] for e in server.events.values()] == ["mine"]
        assert len(server.seen) <= 3
        assert t.stats().recorded == 1
        assert t.stats().reentrant_records >= handler.lines > 0
        assert spans_of_httpx.get_finished_spans() == ()
        assert t.shutdown(10).ok
        assert t.stats().recorded == 1
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_f69_a_line_that_a_caller_logs_for_us_is_no_event(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as t:
        handler = Recording(t)
        logging.getLogger("tracer").addHandler(handler)
        try:
            assert list(t.chain(reduce=lambda _: 1 / 0)(lambda: (yield 1))()) == [1]
        finally:
            logging.getLogger("tracer").removeHandler(handler)
        assert handler.lines == 1
        assert [e["event_name"] for e in events(t)] == ["<lambda>"]


# -- who listens to our log ---------------------------------------------------------------------


class Listening(logging.Handler):
    """Do something to the tracer, or to the thread, for each line of ours."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.lines = 0
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        self._act()


class Trouble(BaseException):
    """What no `except Exception` catches."""


def fail(error: type[BaseException]) -> None:
    raise error


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[], object]], Listening]]:
    """Return what lets a handler act on each line of ours; it stops with the test."""
    logger, added = logging.getLogger("tracer"), list[logging.Handler]()

    def add(act: Callable[[], object]) -> Listening:
        handler = Listening(act)
        added.append(handler)
        logger.addHandler(handler)
        return handler

    yield add
    for handler in added:
        logger.removeHandler(handler)


ACTS: dict[str, Callable[[Tracer], object]] = {
    "raises": lambda _: fail(ZeroDivisionError),
    "exits": lambda _: fail(SystemExit),
    "raises what is no Exception": lambda _: fail(Trouble),
    "flushes": lambda t: t.flush(20),
    "records": lambda t: t.log_event("tool", "line"),
    "looks": lambda t: t.stats(),
}


@pytest.mark.parametrize("hears", ["log handler", "on_error"])
@pytest.mark.parametrize("act", ACTS)
def test_f71_who_hears_of_a_failure_on_the_thread_that_sends_stops_nothing(
    act: str,
    hears: str,
    mode: str,
    tmp_path: Path,
    listen: Callable[[Callable[[], object]], Listening],
) -> None:
    refused = iter([True])
    acted: list[object] = []

    def verdict(seen: Seen) -> Answer | None:
        return Answer(500) if seen.is_batch and next(refused, False) else None

    with ContractServer(verdict) as server:

        def hear(*_: object) -> None:
            acted.append(None)
            ACTS[act](t)

        on_error = hear if hears == "on_error" else None
        t = tracer_of(server, mode, tmp_path, on_error=on_error)
        if on_error is None:
            listen(hear)
        with t.tool("work"):
            pass
        wait_until(lambda: t.flush(2).ok, 5)
        assert acted
        if act not in ("exits", "raises what is no Exception"):
            assert t.stats().flusher_restarts == 0, "it did not come to the thread"
        assert [e["event_name"] for e in server.events.values()] == ["work"]
        ended = t.shutdown(10)
        assert ended.ok
        assert ended.seconds < 2
        assert_books(t.stats())


def test_f71_a_log_handler_that_raises_lets_a_program_start_without_its_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listen: Callable[[Callable[[], object]], Listening],
) -> None:
    handler = listen(lambda: fail(ZeroDivisionError))

    def no_key() -> str:
        raise LookupError

    t = Tracer(api_key=no_key, server_url="http://127.0.0.1:9", spool_dir=tmp_path)
    assert handler.lines == 1
    t.shutdown(0)
    monkeypatch.setenv("HH_API_KEY", "hh_key")
    monkeypatch.setenv("HH_BATCH_SIZE", "many")
    with tracer.tool("the first event initialises, and cannot"):
        pass
    assert handler.lines >= 2


def test_f71_a_log_handler_may_shut_down_from_the_thread_that_sends(
    mode: str, tmp_path: Path, listen: Callable[[Callable[[], object]], Listening]
) -> None:
    with ContractServer(lambda seen: Answer(500) if seen.is_batch else None) as server:
        t = tracer_of(server, mode, tmp_path)
        waited: list[float] = []
        listen(lambda: waited.append(t.shutdown(1).seconds))
        with t.tool("work"):
            pass
        began = time.monotonic()
        t.flush(10)
        assert not t.shutdown(1).ok
        assert time.monotonic() - began < 5
        assert 0 <= max(waited) < 0.5, "the thread does not wait for itself"
        stats = t.stats()
        assert (stats.recorded, stats.spooled + stats.dropped.get("shutdown", 0)) == (1, 1)
        assert_books(stats)


def test_f71_a_log_handler_that_blocks_holds_up_the_sending_alone(
    mode: str, tmp_path: Path, listen: Callable[[Callable[[], object]], Listening]
) -> None:
    refused, blocked, go = iter([True]), threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert go.wait(20)

    def verdict(seen: Seen) -> Answer | None:
        return Answer(500) if seen.is_batch and next(refused, False) else None

    with ContractServer(verdict) as server:
        t = tracer_of(server, mode, tmp_path)
        listen(block)
        with t.tool("work"):
            pass
        assert not t.flush(0.1).ok
        assert blocked.wait(10)
        began = time.monotonic()
        for _ in range(1000):
            with t.tool("meanwhile"):
                pass
        assert not t.flush(0.1).ok
        assert time.monotonic() - began < 2
        assert_books(t.stats())
        go.set()
        wait_until(lambda: t.flush(2).ok, 5)
        assert len(server.events) == 1001
        assert t.shutdown(10).ok
        assert_books(t.stats())


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_f71_a_log_handler_that_raises_on_a_callers_thread_costs_no_event(
    error: type[Exception],
    server: ContractServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listen: Callable[[Callable[[], object]], Listening],
) -> None:
    """The disk fails: memory takes the place of the journal, which the caller's thread says."""
    t = tracer_of(server, "D", tmp_path)
    handler = listen(lambda: fail(error))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tracer.spool.os.open", full)
    with t.tool("work"):
        pass
    monkeypatch.undo()
    assert handler.lines == 1
    assert re.fullmatch("M: .*No space left on device", t.stats().mode)
    assert_books(t.stats())
    assert t.flush(10).ok
    assert [e["event_name"] for e in server.events.values()] == ["work"]
    assert t.shutdown(10).ok
    assert_books(t.stats())


# -- values and errors that are decorated -------------------------------------------------------


def test_f72_a_decorated_repr_of_a_value_is_no_event(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as t:

        class Shown:
            def __init__(self) -> None:
                self.me = self

            @t.tool
            def __repr__(self) -> str:
                return f"<shown {self.me!s}>"  # without end, if anybody asked

            __str__ = __repr__

        shown: Any = Shown()
        t.chain(lambda *given: given)(shown, [shown], {"a": {shown}})
        assert only(t)["inputs"]["given"][0]["__type__"].endswith("Shown")
        assert t.stats().failures == 0


def test_f72_a_decorated_text_of_an_error_is_no_event(tmp_path: Path) -> None:
    deep = 0
    with local_tracer(tmp_path) as t:

        class Shown(Exception):  # noqa: N818 - a value as any other
            @t.tool
            def __str__(self) -> str:
                nonlocal deep
                deep += 1
                with t.chain("inside"):
                    return f"{self!s}" if deep % 50 else "shown"

        @t.chain
        def fails() -> None:
            raise Shown

        with pytest.raises(Shown):
            fails()
        event = only(t)
        assert (event["event_name"], event["error"]) == ("fails", "Shown: shown")
        assert event["metadata"]["exception"]["message"] == "shown"
        assert deep == 100, "once for the error, once for its details"
        assert t.stats().reentrant_records == 200
        assert t.stats().failures == 0


def reported(source: str, server: ContractServer, mode: str, directory: Path) -> dict[str, Any]:
    """Run a program to its end and return what it reports; a hang fails the test."""
    env = environment(
        HH_API_URL=server.url,
        HH_SPOOL_DIR=directory,
        HH_DURABLE=str(int(mode == "D")),
        HH_FLUSH_INTERVAL="0.5",
    )
    ended = run(source + REPORT, env=env)
    assert (ended.code, ended.err) == (0, "")
    said: dict[str, Any] = json.loads(ended.out)
    return said
