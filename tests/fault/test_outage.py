"""The server dies, hangs, refuses, comes back: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from collector_process import CollectorProcess
from fakes import Answer, ContractServer, Seen
from programs import assert_books, assert_exact, environment, run, spawn, stored, wait_until

from tracer import Tracer

# Four threads record some 500 events a second until the file named last appears; then everything
# is sent and printed.
LOAD = """
import json, os, sys, threading, time
import tracer

t = tracer.init()
ids = [[] for _ in range(4)]
pause = threading.Event()

def load(mine):
    while not os.path.exists(sys.argv[2]):
        with t.session("load"):
            for n in range(5):
                with t.chain("outer", inputs={"text": "x" * 1000}) as outer:
                    with t.tool("inner") as inner:
                        pass
                mine += [inner.id, outer.id]
        pause.wait(0.08)

def watch():  # the identity holds at every moment, but for those who are recording just now
    while not done.wait(0.01):
        s = t.stats()
        placed = s.delivered + s.queued + s.in_flight + s.spooled + sum(s.dropped.values())
        if abs(s.recorded + s.adopted_in - placed) > 4:
            wrong.append(repr(s))

wrong, done = [], threading.Event()
threads = [threading.Thread(target=load, args=(mine,)) for mine in ids]
watcher = threading.Thread(target=watch)
for thread in threads: thread.start()
watcher.start()
print("loading", flush=True)
for thread in threads: thread.join()
until = time.monotonic() + 60
while not (result := t.flush(30)).ok and time.monotonic() < until:
    pause.wait(0.1)
done.set()
watcher.join()
with open(sys.argv[1], "w") as file:
    json.dump([i for mine in ids for i in mine], file)
s = t.stats()
t.shutdown(10)
print(json.dumps([result.ok, s.recorded, s.delivered, s.queued + s.spooled, s.dropped, wrong[:3]]))
"""


class _Load:
    """The program above, under way."""

    def __init__(self, tmp_path: Path, url: str, durable: str) -> None:
        self.ids, self.stop = tmp_path / "ids", tmp_path / "stop"
        env = environment(
            HH_API_URL=url,
            HH_SPOOL_DIR=tmp_path / "spool",
            HH_DURABLE=durable,
            HH_TIMEOUT="2",
            HH_FLUSH_INTERVAL="0.5",
        )
        self.process = spawn(LOAD, self.ids, self.stop, env=env)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "loading\n"

    def finish(self, collector: CollectorProcess) -> None:
        """Let it end; everything it recorded is there once, and its books say so."""
        self.stop.touch()
        try:
            out, err = self.process.communicate(timeout=80)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert self.process.returncode == 0, err
        expected = set(json.loads(self.ids.read_text()))
        number = len(expected)
        assert json.loads(out) == [True, number, number, 0, {}, []], err
        assert_exact(stored(collector.db), expected)


def rows(collector: CollectorProcess) -> int:
    return len(stored(collector.db))


def grows(collector: CollectorProcess) -> None:
    """Wait until events arrive."""
    before = rows(collector)
    wait_until(lambda: rows(collector) > before, 30, "events arrive")


@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
def test_f1_a_collector_killed_and_restarted_under_load_costs_nothing(
    durable: str, tmp_path: Path, collector: CollectorProcess
) -> None:
    load = _Load(tmp_path, collector.url, durable)
    for _ in range(2):
        grows(collector)
        collector.kill()
        refused = threading.Event()
        refused.wait(1.0)  # an outage of a second: several attempts fail in it
        collector.restart()
    grows(collector)
    load.finish(collector)


def test_f2_a_server_that_is_down_from_the_start_gets_the_session_first(
    tmp_path: Path, collector: CollectorProcess
) -> None:
    collector.kill()
    load = _Load(tmp_path, collector.url, "1")
    journal = tmp_path / "spool"
    wait_until(lambda: len(list(journal.glob("*.segment"))) > 1, 60, "a second segment")
    collector.restart()
    load.finish(collector)


def test_f4_a_stalled_server_costs_nothing(tmp_path: Path, collector: CollectorProcess) -> None:
    load = _Load(tmp_path, collector.url, "1")
    grows(collector)
    collector.send_signal(signal.SIGSTOP)
    stalled = threading.Event()
    stalled.wait(3)  # longer than the deadline of an attempt, which is 2 s here
    collector.send_signal(signal.SIGCONT)
    grows(collector)
    load.finish(collector)


def test_f3_an_outage_beyond_the_bound_in_memory_is_counted_to_one(tmp_path: Path) -> None:
    down = True
    with ContractServer(lambda _: Answer(503) if down else None) as server:
        t = Tracer(
            server_url=server.url, durable=False, max_queue=2000, spool_dir=tmp_path / "never"
        )
        ids = []
        for _ in range(5000):
            with t.tool("work") as span:
                pass
            ids.append(span.id)
        stats = t.stats()
        assert stats.dropped == {"queue_full": 3000}
        assert_books(stats)
        down = False
        assert t.flush(20).ok
        # the newest are refused, and what there is room for again is taken
        assert sorted(server.events) == sorted(ids[:2000])
        for _ in range(10):
            with t.tool("after") as span:
                pass
            ids.append(span.id)
        assert t.shutdown(20).ok
        assert sorted(server.events) == sorted(ids[:2000] + ids[5000:])
        assert t.stats().dropped == {"queue_full": 3000}
        assert t.stats().delivered == 2010
        assert_books(t.stats())
        assert not (tmp_path / "never").exists()


def test_f8_a_batch_whose_answer_is_lost_is_sent_again_with_the_same_ids(tmp_path: Path) -> None:
    lost = iter([True] * 3)

    def verdict(seen: Seen) -> Answer | None:
        # stores, then says something that is no acknowledgement (F17)
        if seen.is_batch and next(lost, False):
            return Answer(200, body=b"<html>gateway</html>", stores=True)
        return None

    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        ids = set()
        for _ in range(20):
            with t.tool("work") as span:
                pass
            ids.add(span.id)
        for _ in range(3):
            assert not t.flush(10).ok
            assert t.stats().delivered == 0, "only a parsed acknowledgement counts"
            assert_books(t.stats())
        assert t.flush(10).ok
        assert set(server.events) == ids
        assert server.resent == 60
        assert [len(b.event_ids) for b in server.batches()] == [20] * 4
        t.shutdown(10)
        assert_books(t.stats())


@pytest.mark.parametrize("status", [429, 503])
def test_f24_retry_after_is_waited_for_by_every_request(status: int, tmp_path: Path) -> None:
    said = iter([True])

    def verdict(seen: Seen) -> Answer | None:
        return Answer(status, {"Retry-After": "1"}) if next(said, False) else None

    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, batch_size=1)
        for _ in range(5):
            with t.session(), t.tool("work"):
                pass
        wait_until(lambda: len(server.events) == 5, 20)
        first, second = server.seen[0].moment, server.seen[1].moment
        assert second - first >= 1.0
        assert t.shutdown(10).ok
        assert t.stats().retries == 1
        assert_books(t.stats())


def test_f15_one_poison_event_costs_itself_alone(tmp_path: Path) -> None:
    poison = ""

    def verdict(seen: Seen) -> Answer | None:
        return Answer(400) if seen.is_batch and poison in seen.event_ids else None

    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, batch_size=5000, flush_interval=60)
        for position in (0, 1, 499, 500, 998, 999):
            server.events.clear()
            before = len(server.batches())
            ids = []
            with t.session(f"poisoned at {position}"):
                for n in range(1000):
                    with t.tool("work") as span:
                        pass
                    ids.append(span.id)
                    if n == position:
                        poison = span.id
            with t.session("others"), t.tool("other") as other:
                pass
            assert t.flush(30).ok
            assert set(server.events) == {*ids, other.id} - {poison}
            extra = len(server.batches()) - before - 2
            assert extra <= 2 * math.ceil(math.log2(1000)) + 2
        assert t.shutdown(10).ok
        assert t.stats().dropped == {"rejected": 6}
        assert_books(t.stats())


# contract.md, "Retrying": what a batch of 8 events is answered once, how many requests carry
# events until all is settled, and what became of the events.
AGAIN = [408, 425, 429, 500, 502, 503, 504, 507, 599]
NEVER = [402, 405, 406, 410, 415, 418, 451, 501, 505]


@pytest.mark.parametrize(
    ("status", "requests", "delivered", "dropped"),
    [(s, 2, 8, {}) for s in AGAIN]
    + [(s, 1, 0, {"rejected": 8}) for s in NEVER]
    + [
        (400, 3, 8, {}),  # refused once as a whole, accepted in halves
        (422, 3, 8, {}),
        (413, 3, 8, {}),
        (404, 2, 8, {}),  # beside one more `create`
        (409, 1, 8, {}),
        (401, 2, 8, {}),  # held until the key works again
        (403, 2, 8, {}),
        (407, 2, 8, {}),
        (301, 1, 0, {"rejected": 8}),  # never followed
        (307, 1, 0, {"rejected": 8}),
    ],
)
def test_f25_each_status_once(
    status: int, requests: int, delivered: int, dropped: dict[str, int], tmp_path: Path
) -> None:
    said = iter([True])

    def verdict(seen: Seen) -> Answer | None:
        where = {"Location": "/elsewhere"} if 300 <= status < 400 else {}
        if not seen.is_batch or not next(said, False):
            return None
        return Answer(status, where, stores=status == 409)

    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        for _ in range(8):
            with t.tool("work"):
                pass
        held = not t.flush(10).ok
        assert held == (status in (*AGAIN, 401, 403, 407)), "flush makes one attempt"
        if held:
            assert t.stats().spooled == 8, "nothing is dropped by a wait"
        assert t.flush(10).ok
        assert len(server.batches()) == requests
        stats = t.stats()
        assert (stats.delivered, stats.dropped) == (delivered, dropped)
        assert len(server.events) == delivered
        creates = [seen for seen in server.seen if seen.path == "/v1/sessions"]
        assert len(creates) == (2 if status == 404 else 1)
        assert not [seen for seen in server.seen if seen.path == "/elsewhere"]
        assert t.shutdown(10).ok
        assert_books(t.stats())


@pytest.mark.parametrize("status", [400, 422, 413, 410])
def test_f25_each_refusal_for_ever(status: int, tmp_path: Path) -> None:
    with ContractServer(lambda seen: Answer(status) if seen.is_batch else None) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        for _ in range(8):
            with t.tool("work"):
                pass
        assert t.flush(10).ok
        assert len(server.batches()) == {400: 15, 422: 15, 413: 11, 410: 1}[status]
        assert t.stats().dropped == {"too_large" if status == 413 else "rejected": 8}
        assert t.shutdown(10).ok
        assert_books(t.stats())


def test_a_refused_create_is_tried_with_id_and_name_then_costs_its_session(
    tmp_path: Path,
) -> None:
    refused: set[str] = set()

    def verdict(seen: Seen) -> Answer | None:
        if seen.path != "/v1/sessions":
            return None
        bad = seen.body["session_name"] in refused or "metadata" in seen.body
        return Answer(400) if bad else None

    with ContractServer(verdict) as server:
        refused.add("refused")
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.session("refused", metadata={"a": 1}), t.tool("lost"):
            pass
        with t.session('"shortened" \\ é', metadata={"a": 1}) as short, t.tool("kept"):
            pass
        assert t.shutdown(10).ok
        assert [e["event_name"] for e in server.events.values()] == ["kept"]
        assert server.sessions[short.id] == {
            "session_id": short.id,
            "session_name": '"shortened" \\ é',
        }
        assert t.stats().dropped == {"rejected": 1}
        assert_books(t.stats())


def test_f19_a_refused_key_holds_everything_and_asks_rarely(tmp_path: Path) -> None:
    with ContractServer(lambda _: Answer(401)) as server:
        # an interval that ends, or a batch that fills, before the flush would be asked about too
        t = Tracer(
            server_url=server.url,
            api_key="hh_revoked00",
            spool_dir=tmp_path,
            batch_size=5000,
            flush_interval=3600,
        )
        for _ in range(1200):
            with t.tool("work"):
                pass
        assert not t.flush(10).ok
        assert len(server.seen) == 1
        assert t.stats().spooled == 1200
        assert t.stats().dropped == {}
        assert not t.shutdown(10).ok
        assert_books(t.stats())


def test_f7_connections_cut_at_random_moments_cost_nothing(tmp_path: Path) -> None:
    """A proxy before the server cuts every other connection somewhere in the request."""
    with ContractServer() as server, socket.create_server(("127.0.0.1", 0)) as proxy:
        ended = threading.Event()

        def relay() -> None:
            number = 0
            while not ended.is_set():
                try:
                    client, _ = proxy.accept()
                except OSError:  # closed below, once all has arrived
                    return
                number += 1
                with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
                    if number % 2 and number < 40:
                        passed = client.recv(1 + 37 * number)
                        if number % 4 == 1:  # some of it arrives
                            upstream.sendall(passed)
                        continue
                    while piece := client.recv(1 << 20):
                        upstream.sendall(piece)
                        _pump_answer(upstream, client)

        thread = threading.Thread(target=relay, daemon=True)
        thread.start()
        t = Tracer(
            server_url=f"http://127.0.0.1:{proxy.getsockname()[1]}",
            spool_dir=tmp_path,
            batch_size=10,
        )
        ids = set()
        for _ in range(200):
            with t.tool("work") as span:
                pass
            ids.add(span.id)
        wait_until(lambda: t.flush(10).ok, 60)
        assert set(server.events) == ids
        assert t.shutdown(10).ok
        assert t.stats().delivered == 200
        assert_books(t.stats())
        ended.set()


def _pump_answer(upstream: socket.socket, client: socket.socket) -> None:
    upstream.settimeout(0.1)  # the request may not be whole yet: then there is no answer
    try:
        while piece := upstream.recv(1 << 20):
            client.sendall(piece)
            if piece.endswith(b"}"):
                return
    except TimeoutError:
        return


# -- the exit (P7) ---------------------------------------------------------------------------

HANGING = """
import tracer
t = tracer.init()
for _ in range(10):
    with t.tool("work"):
        pass
if {failed}:
    assert not t.flush(10).ok
"""


@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
def test_p7_the_exit_takes_shutdown_timeout_at_most_with_a_hanging_server(
    durable: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts by its backlog, says nothing
        env = environment(
            HH_API_URL=f"http://127.0.0.1:{hanging.getsockname()[1]}",
            HH_SPOOL_DIR=tmp_path,
            HH_SHUTDOWN_TIMEOUT="1.5",
            HH_DURABLE=durable,
        )
        program = "import atexit, time\natexit.register(lambda: print(time.monotonic()-moment))\n"
        program += HANGING.format(failed=False) + "moment = time.monotonic()\nraise SystemExit(3)"
        ended = run(program, env=env)
        assert ended.code == 3
        assert 1.4 < float(ended.out) <= 1.5 + 0.5


@pytest.mark.parametrize("server", ["down", "hanging"])
def test_p7_with_a_journal_the_exit_is_short_once_a_send_has_failed(
    server: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = 9 if server == "down" else hanging.getsockname()[1]
        env = environment(
            HH_API_URL=f"http://127.0.0.1:{port}", HH_SPOOL_DIR=tmp_path, HH_TIMEOUT="1.5"
        )
        program = "import atexit, time\natexit.register(lambda: print(time.monotonic()-moment))\n"
        program += HANGING.format(failed=True) + "moment = time.monotonic()\n"
        ended = run(program, env=env)
        assert ended.code == 0
        assert float(ended.out) <= 0.6
    left = list(Path(tmp_path).glob("*.segment"))
    assert left, "the journal keeps the rest"
    assert os.stat(left[0]).st_size > 0


def test_p7_several_tracers_share_the_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        program = f"""
            import atexit, time
            atexit.register(lambda: print(time.monotonic() - moment))
            import tracer
            kept = []
            for n in range(4):
                t = tracer.Tracer(
                    server_url="http://127.0.0.1:{hanging.getsockname()[1]}",
                    spool_dir={str(tmp_path)!r}, shutdown_timeout=1.0,
                )
                kept.append(t)
                with t.tool("work"):
                    pass
            moment = time.monotonic()
            """
        ended = run(program)
        assert ended.code == 0, ended.err
        assert float(ended.out) <= 1.0 + 0.5


def test_p7_the_first_event_at_the_very_end_is_sent_without_a_thread(tmp_path: Path) -> None:
    """From 3.12 on no thread can be started at exit: the sending happens on the last thread."""
    program = """
        import sys, time, tracer, atexit
        t = tracer.init()
        @atexit.register
        def last_words():
            with t.tool("last words"):
                pass
        """
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path)
        ended = run(program, env=env)
        assert (ended.code, ended.err) == (0, "")
        assert [e["event_name"] for e in server.events.values()] == ["last words"]
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        env = environment(
            HH_API_URL=f"http://127.0.0.1:{hanging.getsockname()[1]}",
            HH_SPOOL_DIR=tmp_path,
            HH_SHUTDOWN_TIMEOUT="1",
        )
        started = time.monotonic()
        ended = run(program, env=env)
        assert ended.code == 0
        assert time.monotonic() - started < 5, "10 s is what an attempt may take otherwise"
        assert list(tmp_path.glob("*.segment"))


@pytest.mark.parametrize(("durable", "times"), [("1", 0), ("0", 1)], ids=["D", "M"])
def test_p3_what_memory_loses_at_the_exit_is_said(durable: str, times: int, tmp_path: Path) -> None:
    env = environment(
        HH_API_URL="http://127.0.0.1:9",
        HH_SPOOL_DIR=tmp_path,
        HH_SHUTDOWN_TIMEOUT="0.5",
        HH_DURABLE=durable,
    )
    ended = run(HANGING.format(failed=False), env=env)
    assert ended.code == 0
    assert ended.err.count("10 events waited in memory only and are lost") == times
