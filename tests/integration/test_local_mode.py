"""Local mode: programs find the collector of this machine, and it finds nothing else of theirs."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from collector_process import CollectorProcess
from fakes import Answer, ContractServer
from programs import assert_books, assert_exact, environment, run, spawn, stored, wait_until
from raw_server import RawServer, answer

from tracer import Tracer
from tracer.errors import TransientError
from tracer.local import LocalAddress, announce, find
from tracer.transport import HttpTransport, Request

TOKEN = "t-0123"  # noqa: S105 - of a collector that lives for one test


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return the state directory that programs and collectors of a test share."""
    return tmp_path / "state"


def place_in(state: Path) -> Path:
    return state / "tracer" / "collector.json"


# -- the collector says where it is ------------------------------------------------------------


def test_a_running_collector_says_where_it_is(state: Path, tmp_path: Path) -> None:
    place = place_in(state)
    with CollectorProcess.start(tmp_path / "c.db", token=TOKEN, state=state) as collector:
        assert find(place) == (collector.url, TOKEN)
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert collector.stderr() == ""
        assert collector.terminate() == 0
    assert not place.exists()
    assert find(place) is None


def test_a_killed_collector_leaves_a_file_that_says_nothing(state: Path, tmp_path: Path) -> None:
    place = place_in(state)
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        url = collector.url
        collector.kill()
        assert json.loads(place.read_bytes())["url"] == url
        assert find(place) is None
        collector.restart()
        assert find(place) == (url, None)


def test_only_the_first_collector_is_named(state: Path, tmp_path: Path) -> None:
    with (
        CollectorProcess.start(tmp_path / "1.db", state=state) as first,
        CollectorProcess.start(tmp_path / "2.db", state=state) as second,
    ):
        assert find(place_in(state)) == (first.url, None)
        assert "another collector is named in" in second.stderr()
        assert second.terminate() == 0
        assert find(place_in(state)) == (first.url, None)


def test_a_state_directory_that_cannot_be_used_costs_the_notice_alone(
    state: Path, tmp_path: Path
) -> None:
    state.write_text("in the way")
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        assert "will not find this collector: cannot say so" in collector.stderr()
        assert "Traceback" not in collector.stderr()
        assert collector.terminate() == 0


def test_beyond_loopback_programs_of_this_machine_are_told_its_loopback(
    state: Path, tmp_path: Path
) -> None:
    with CollectorProcess.start(
        tmp_path / "c.db",
        token=TOKEN,
        host="0.0.0.0",  # noqa: S104 - the point
        state=state,
    ) as collector:
        assert find(place_in(state)) == (f"http://127.0.0.1:{collector.port}", TOKEN)


# -- programs find it --------------------------------------------------------------------------

# Records ten events for each line it reads and prints their ids; ends with its input.
PROGRAM = """
import json, sys, tracer

t = tracer.init(flush_interval=0.5)
for line in sys.stdin:
    ids = []
    for n in range(10):
        with t.tool("work", inputs={"n": n}) as span:
            pass
        ids.append(span.id)
    print(json.dumps(ids), flush=True)
"""


class Program:
    """A program in local mode, told when to record."""

    def __init__(self, state: Path, **extra: str) -> None:
        env = environment(XDG_STATE_HOME=state, HH_LOCAL="1", **extra)
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )

    def record(self) -> set[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return set(json.loads(self.process.stdout.readline()))

    def end(self) -> None:
        out, err = self.process.communicate(timeout=30)
        assert (self.process.returncode, out, err) == (0, "", "")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def program(state: Path) -> Iterator[Program]:
    running = Program(state)
    yield running
    running.kill()


def arrived(collector: CollectorProcess, expected: set[str]) -> None:
    """Wait until exactly these events are stored."""
    wait_until(lambda: len(stored(collector.db)) >= len(expected), 30, "all have arrived")
    assert_exact(stored(collector.db), expected)


def segments(state: Path) -> list[Path]:
    return sorted((state / "tracer" / "spool").glob("*.segment"))


def test_events_arrive_live_from_the_moment_a_collector_appears(
    state: Path, tmp_path: Path, program: Program
) -> None:
    dead, ended = Program(state), Program(state)
    ids = dead.record() | ended.record() | program.record()
    dead.kill()
    ended.end()
    assert len(segments(state)) == 3
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        arrived(collector, ids)  # of the two that are dead as well
        ids |= program.record()
        arrived(collector, ids)
        program.end()
        assert segments(state) == []
        names = [row.name for row in stored(collector.db, sessions=True)]
        assert len(names) == 3


def test_a_collector_that_is_killed_and_started_again_misses_nothing(
    state: Path, tmp_path: Path, program: Program
) -> None:
    with CollectorProcess.start(tmp_path / "c.db", token=TOKEN, state=state) as collector:
        ids = program.record()
        arrived(collector, ids)
        for end in (collector.kill, collector.terminate):
            end()
            ids |= program.record()
            ids |= program.record()
            collector.restart()
            ids |= program.record()
            arrived(collector, ids)
        collector.kill()
        collector.port = 0  # somewhere else
        collector.restart()
        ids |= program.record()
        arrived(collector, ids)
        program.end()  # with an empty stderr: nobody asked to hear of it
    assert segments(state) == []


def test_what_is_open_at_the_death_is_shown_as_interrupted(state: Path, tmp_path: Path) -> None:
    dying = """
        import os, signal, sys, time, tracer
        t = tracer.init()
        with t.tool("ended behind many") as span:
            for _ in range(600):
                with t.tool("many"):
                    pass
            time.sleep(2.5)
        with t.tool("open"):
            time.sleep(2.5)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    env = environment(XDG_STATE_HOME=state, HH_LOCAL="1")
    assert run(dying, env=env).code == -signal.SIGKILL
    written = b"".join(path.read_bytes() for path in segments(state))
    assert written.count(b"interrupted: process ended") == 2, "both were open for long"
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        after = Program(state)
        after.record()
        after.end()
        rows = {r.name: r for r in stored(collector.db) if r.name not in ("many", "work")}
        assert rows["open"].metadata == {"tracer": {"interrupted": True}}
        assert (rows["ended behind many"].duration or 0) > 2000
        assert rows["ended behind many"].metadata == {}


def test_what_ends_with_the_program_is_not_interrupted(state: Path, tmp_path: Path) -> None:
    ending = """
        import time, tracer
        t = tracer.init(flush_interval=0.5)
        with t.tool("long") as span:
            while not t._buffer.writer.drawn >= 2:  # the background has written what is open
                time.sleep(0.001)
        """
    env = environment(XDG_STATE_HOME=state, HH_LOCAL="1")
    assert run(ending, env=env).code == 0
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        after = Program(state)
        after.record()
        after.end()
        (row,) = [r for r in stored(collector.db) if r.name == "long"]
        assert row.metadata == {}
        assert (row.duration or 0) > 900


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, state: Path) -> Path:
    """Return the file by which tracers of this process find a collector."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    return place_in(state)


@pytest.mark.parametrize("interval", [0.5, 3600.0])
def test_without_a_collector_a_flush_has_nothing_to_wait_for(interval: float, place: Path) -> None:
    t = Tracer(local=True, flush_interval=interval)
    for number in (5, 10):
        for _ in range(5):
            with t.tool("work"):
                pass
        result = t.flush(30)
        assert (result.ok, result.spooled, result.reason) == (True, number, None)
        assert result.seconds < 5
    ended = t.shutdown(30)
    assert (ended.ok, ended.spooled, ended.reason) == (True, 10, None)
    assert ended.seconds < 5
    assert_books(t.stats())


@pytest.mark.parametrize("durable", [True, False])
def test_a_flush_looks_for_a_collector_at_once(
    durable: bool,  # noqa: FBT001 - a parameter of the test
    place: Path,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.flusher.LOOK_EVERY", 3600)
    t = Tracer(local=True, flush_interval=3600, durable=durable)
    with t.tool("work") as first:
        pass
    assert t.flush(10).delivered == 0
    with CollectorProcess.start(tmp_path / "c.db", token=TOKEN, state=state) as collector:
        with t.tool("work") as second:
            pass
        assert t.flush(10).delivered == 2
        assert_exact(stored(collector.db), {first.id, second.id})
        collector.kill()
        with t.tool("kept"):
            pass
        result = t.flush(10)
        assert (result.ok, result.queued + result.spooled) == (True, 1)
    ended = t.shutdown(10)
    assert ended.ok
    assert ended.dropped == ({} if durable else {"shutdown": 1})
    assert_books(t.stats())


def test_many_waiting_events_cost_no_processor(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def nobody(path: Path) -> None:
        looks.append(time.monotonic())

    monkeypatch.setattr("tracer.nearby.find", nobody)
    t = Tracer(local=True)
    for _ in range(2000):  # four batches
        with t.tool("work"):
            pass
    wait_until(lambda: len(looks) >= 8)
    assert looks[7] - looks[1] > 2, "two looks a second: before the sleep and behind it"
    assert t.shutdown(10).spooled == 2000


def test_a_collector_that_goes_while_it_is_sent_to_is_no_failure(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = [LocalAddress("http://127.0.0.1:9", None)]

    def send(transport: HttpTransport, request: Request) -> bytes:
        there.clear()
        raise TransientError("cannot reach it")

    monkeypatch.setattr("tracer.nearby.find", lambda _: there[0] if there else None)
    monkeypatch.setattr(HttpTransport, "send", send)
    t = Tracer(local=True, flush_interval=3600)
    with t.tool("work"):
        pass
    result = t.flush(10)
    assert there == []
    assert (result.ok, result.spooled, result.reason) == (True, 1, None)
    assert t.shutdown(10).ok
    assert caplog.records == []
    assert_books(t.stats())


def test_nobody_waits_for_the_retry_after_of_a_collector_that_has_gone(place: Path) -> None:
    place.parent.mkdir(parents=True)
    with ContractServer(lambda _: Answer(503, {"Retry-After": "60"})) as busy:
        held = announce(place, LocalAddress(busy.url, None))
        assert held is not None
        t = Tracer(local=True)
        with t.tool("work"):
            pass
        result = t.flush(10)
        assert (result.ok, result.spooled) == (False, 1)
        assert len(busy.seen) == 1
        held.end()
        result = t.flush(10)
        assert (result.ok, result.spooled, result.reason) == (True, 1, None)
        assert result.seconds < 5
        ended = t.shutdown(10)
        assert (ended.ok, ended.spooled) == (True, 1)
        assert len(busy.seen) == 1
    assert_books(t.stats())


def test_who_took_over_the_port_of_a_collector_gets_nothing(place: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def serve(same: RawServer, connection: object, request: bytes) -> None:
        seen.append(request)
        answer(200, b'{"success":true,"session_id":"x"}')(same, connection, request)  # type: ignore[arg-type]

    with RawServer(serve) as impostor:
        place.parent.mkdir(parents=True)
        held = announce(place, LocalAddress(impostor.url, None))
        assert held is not None
        content = place.read_bytes()
        held.end()
        place.write_bytes(content)
        place.chmod(0o600)
        t = Tracer(local=True)
        with t.tool("work"):
            pass
        assert t.flush(10).spooled == 1
        assert t.shutdown(10).spooled == 1
    assert seen == []


def test_f42_the_cap_holds_without_anybody_to_send_to(place: Path) -> None:
    cap = 32 << 20
    t = Tracer(local=True, spool_max_bytes=cap, max_event_bytes=1 << 20)
    text = "x" * 200_000
    for _ in range(400):  # 80 MB
        with t.tool("work", inputs={"text": text}):
            pass
        assert len(segments(place.parents[1])) * (8 << 20) <= cap + (16 << 20)
    found = t.stats()
    assert found.mode.startswith("D:")
    assert set(found.dropped) == {"spool_full"}
    assert 200 < found.dropped["spool_full"] < 350
    assert t.shutdown(10).ok
    assert_books(t.stats())


def test_f40_a_forked_child_finds_the_collector_too(state: Path, tmp_path: Path) -> None:
    forking = """
        import os, sys, tracer
        t = tracer.init()
        with t.tool("parent"): pass
        child = os.fork()
        with t.tool("after"): pass
        assert t.flush(20).ok
        if child == 0:
            os._exit(0 if t.stats().delivered == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        """
    env = environment(XDG_STATE_HOME=state, HH_LOCAL="1")
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        ended = run(forking, env=env)
        assert ended.code == 0, ended.err
        assert sorted(r.name for r in stored(collector.db)) == ["after", "after", "parent"]


def test_the_background_imports_nothing(state: Path, tmp_path: Path) -> None:
    watching = """
        import sys, threading, tracer
        t = tracer.init()
        imported = []
        def watch(event, args):
            if event == "import" and threading.current_thread().name == "tracer-flusher":
                imported.append(args[0])
        sys.addaudithook(watch)
        with t.tool("work"): pass
        assert t.flush(20).spooled == 1
        print("waiting", flush=True)
        while t.stats().delivered == 0:
            t.flush(20)
            threading.Event().wait(0.05)
        t.shutdown()
        print(imported, flush=True)
        """
    env = environment(XDG_STATE_HOME=state, HH_LOCAL="1")
    running = spawn(watching, env=env)
    assert running.stdout is not None
    assert running.stdout.readline() == "waiting\n"
    with CollectorProcess.start(tmp_path / "c.db", state=state):
        out, err = running.communicate(timeout=30)
    assert (out, err) == ("[]\n", "")


def test_f45_other_destinations_are_left_alone(state: Path, tmp_path: Path, place: Path) -> None:
    other = Tracer(server_url="http://127.0.0.1:9", timeout=1)
    with other.tool("for a server"):
        pass
    other.shutdown(1)
    (kept,) = segments(state)
    before = kept.read_bytes()
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        t = Tracer(local=True)
        with t.tool("local"):
            pass
        assert t.shutdown(20).ok
        assert [row.name for row in stored(collector.db)] == ["local"]
    assert segments(state) == [kept]
    assert kept.read_bytes() == before
