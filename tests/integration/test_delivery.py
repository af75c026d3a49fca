"""From the call to the collector's table: real HTTP, real processes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from collector_process import CollectorProcess
from fakes import Answer, ContractServer, Seen
from programs import assert_books, assert_exact, environment, run, stored, wait_until

from tracer import Tracer
from tracer.books import FlushResult
from tracer.errors import TransportError

# 16 workers, each 625 times a chain with two tools side by side and one below the other.
LOAD = """
import asyncio, json, sys, threading
import tracer

t = tracer.init()

@t.tool
def sync_tool(n): return n

@t.tool
async def async_tool(n):
    await asyncio.sleep(0)
    return n

lines = []

def note(span, parent):
    lines.append([span.id, parent.id if parent else None, span.session_id, span.name])

def in_thread(worker):
    with t.session(f"thread {worker}"):
        for n in range(625):
            with t.chain("outer", inputs={"worker": worker, "n": n}) as outer:
                with t.tool("first") as first, t.model("below") as below: pass
                with t.tool("second") as second: pass
                with t.chain("third") as third: pass
            for span, parent in ((outer, None), (first, outer), (below, first), (second, outer),
                                 (third, outer)):
                note(span, parent)

async def in_task(worker):
    async with t.session(f"task {worker}"):
        for n in range(625):
            async with t.chain("outer", inputs={"worker": worker, "n": n}) as outer:
                await asyncio.sleep(0)
                async def side(name):
                    async with t.tool(name) as span:
                        await asyncio.sleep(0)
                    note(span, outer)
                await asyncio.gather(side("first"), side("second"))
                async with t.tool("third") as third:
                    await asyncio.sleep(0)
                    async with t.model("below") as below:
                        await asyncio.sleep(0)
            note(outer, None); note(third, outer); note(below, third)

async def tasks():
    await asyncio.gather(*(in_task(n) for n in range(8)))

threads = [threading.Thread(target=in_thread, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
asyncio.run(tasks())
for thread in threads: thread.join()
with open(sys.argv[1], "w") as file:
    json.dump(lines, file)
result = t.shutdown(60)
s = t.stats()
print(json.dumps([result.ok, result.delivered, s.recorded, s.delivered, s.spooled, s.dropped]))
"""


@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
def test_50_000_events_from_threads_and_tasks_arrive_once_with_their_parents(
    durable: str, tmp_path: Path, collector: CollectorProcess
) -> None:
    env = environment(HH_API_URL=collector.url, HH_SPOOL_DIR=tmp_path / "spool", HH_DURABLE=durable)
    ended = run(LOAD, tmp_path / "ids", env=env, seconds=100)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == [True, 50_000, 50_000, 50_000, 0, {}]

    recorded = json.loads((tmp_path / "ids").read_text())
    assert len(recorded) == 50_000
    rows = stored(collector.db)
    assert_exact(rows, {line[0] for line in recorded})
    found = {row.event_id: row for row in rows}
    wrong = [
        line
        for line in recorded
        if (found[line[0]].parent_id, found[line[0]].session_id, found[line[0]].name)
        != (line[1] or line[2], line[2], line[3])
    ]
    assert wrong == []
    assert len(stored(collector.db, sessions=True)) == 16
    answered = httpx.post(
        f"{collector.url}/v1/events/search",
        json={
            "filters": [
                {"field": "event_type", "operator": "is not", "value": "session", "type": "string"}
            ],
            "limit": 1,
        },
        timeout=30,
    )
    assert answered.json()["totalEvents"] == 50_000


def test_session_ends_and_enrichments_arrive(tmp_path: Path, collector: CollectorProcess) -> None:
    t = Tracer(server_url=collector.url, spool_dir=tmp_path / "spool")
    with t.session("chat", user_properties={"user": "u1"}) as session:
        with t.model("answer") as span:
            t.enrich_span(metrics={"tokens": 3})
        t.enrich_session(outputs={"status": "ok"})
    t.enrich_span(event_id=span.id, feedback={"rating": 5})
    assert t.shutdown(20).ok
    assert_books(t.stats())
    (row,) = stored(collector.db)
    answered = httpx.get(f"{collector.url}/v1/events/{row.event_id}").json()["event"]
    assert answered["metrics"] == {"tokens": 3}
    assert answered["feedback"] == {"rating": 5}
    sessions = {s.event_id: s for s in stored(collector.db, sessions=True)}
    assert sessions[session.id].name == "chat"
    assert sessions[session.id].outputs == {"status": "ok"}
    assert sessions[session.id].duration is not None


def test_two_tracers_in_one_process_are_independent(
    tmp_path: Path, collector: CollectorProcess
) -> None:
    with CollectorProcess.start(tmp_path / "other.db") as other:
        one = Tracer(server_url=collector.url, spool_dir=tmp_path / "spool")
        two = Tracer(server_url=other.url, spool_dir=tmp_path / "spool")
        expected: tuple[set[str], set[str]] = set(), set()
        with one.chain("outer 1") as first, two.chain("outer 2") as second:
            for n in range(600):
                with one.tool("inner 1") as span:
                    assert span.parent_id == first.id
                expected[0].add(span.id)
                with two.tool("inner 2", inputs={"n": n}) as span:
                    assert span.parent_id == second.id
                expected[1].add(span.id)
        expected[0].add(first.id)
        expected[1].add(second.id)
        assert one.shutdown(20).ok
        with two.tool("after the end of the other") as span:
            pass
        expected[1].add(span.id)
        assert two.shutdown(20).ok
        assert_exact(stored(collector.db), expected[0])
        assert_exact(stored(other.db), expected[1])
        for t in (one, two):
            assert_books(t.stats())


def test_on_the_wire_a_session_is_created_then_its_events_then_its_updates(
    tmp_path: Path,
) -> None:
    with ContractServer() as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, batch_size=7)

        def work(name: str) -> None:
            for _ in range(5):
                with t.session(name):
                    for _ in range(10):
                        with t.tool("work"):
                            pass
                    t.enrich_session(outputs={"done": True})

        threads = [threading.Thread(target=work, args=(str(n),)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert t.shutdown(20).ok
        assert len(server.events) == 300
        assert_books(t.stats())
    order: dict[str, list[str]] = {}
    for seen in server.seen:
        parts = seen.path.split("/")
        if seen.is_across:
            for event in seen.body["events"]:
                order.setdefault(event["session_id"], []).append("e")
        elif seen.is_batch:
            order.setdefault(parts[3], []).extend("e" * len(seen.event_ids))
        elif seen.method == "PUT":
            order.setdefault(parts[3], []).append("u")
        else:
            order.setdefault(seen.body["session_id"], []).append("c")
    # enrichment and end are one update if they waited together
    assert {"".join(kinds).removesuffix("u") for kinds in order.values()} <= {
        "c" + 10 * "e" + "u",
        "c" + 10 * "e",
    }
    assert all("u" in kinds for kinds in order.values())
    assert len(order) == 30


def test_f21_the_answered_session_id_is_used_from_then_on(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.session("renamed") as session:
            other = str(uuid4())
            server.renames[session.id] = other
            with t.chain("root") as root:
                with t.tool("child") as child:
                    pass
                assert t.flush(10).ok
            with t.tool("later"):
                pass
        assert t.shutdown(10).ok
        assert set(server.sessions) == {other}
        assert {e["session_id"] for e in server.events.values()} == {other}
        assert {seen.path.split("/")[3] for seen in server.batches()} == {other}
        assert [event_id for event_id, _ in server.updates] == [other], "the session's end"
        # a root event names no parent: the id asked for is nobody's parent
        assert "parent_id" not in server.events[root.id]
        assert server.events[child.id]["parent_id"] == root.id
        assert_books(t.stats())


def test_f20_a_vanished_session_is_created_again_once_then_given_up(tmp_path: Path) -> None:
    gone: set[str] = set()

    def verdict(seen: Seen) -> Answer | None:
        if seen.is_batch and seen.path.split("/")[3] in gone:
            return Answer(404)
        return None

    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.session("once"):
            with t.tool("before"):
                pass
            assert t.flush(10).ok
            server.sessions.clear()
            with t.tool("after"):
                pass
            assert t.flush(10).ok
        assert sorted(e["event_name"] for e in server.events.values()) == ["after", "before"]
        assert len(server.sessions) == 1

        with t.session("for good") as session:
            gone.add(session.id)
            for _ in range(9):
                with t.tool("lost"):
                    pass
            with t.session("others"), t.tool("kept"):
                pass
            before = len(server.seen)
            assert t.flush(10).ok
        mine = [s for s in server.seen[before:] if session.id in (s.path + str(s.body))]
        assert [s.is_batch for s in mine] == [False, True, False, True], "one re-create, one retry"
        assert t.stats().dropped == {"session_gone": 9}
        assert "kept" in {e["event_name"] for e in server.events.values()}
        assert t.shutdown(10).ok
        assert_books(t.stats())


def test_an_update_for_no_uuid_does_not_stop_the_rest(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.tool("work") as span:
            pass
        for name in ("x", "é" * 36, "a\nb", "", "../../v1/sessions", span.id + "/../x"):
            t.enrich_span(event_id=name, feedback={"rating": 1})
        t.enrich_span(event_id=span.id, feedback={"rating": 5})
        assert t.shutdown(10).ok
        changed = {event_id for event_id, _ in server.updates}
        assert changed == {span.id, *server.sessions}
        assert_books(t.stats())


def test_changes_of_one_event_that_wait_together_are_one_request(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)
        with t.session("chat") as session:
            with t.tool("work") as span:
                pass
            assert t.flush(10).ok
            t.enrich_span(event_id=span.id, feedback={"rating": 1, "by": "u1"})
            t.enrich_span(event_id=span.id, feedback={"rating": 5}, metrics={"n": 1})
            t.enrich_session(outputs={"status": "ok"})
        assert t.flush(10).ok
        assert [event_id for event_id, _ in server.updates] == [span.id, session.id]
        assert server.updates[0][1] == {"feedback": {"rating": 5, "by": "u1"}, "metrics": {"n": 1}}
        assert server.updates[1][1].keys() == {"outputs", "end_time", "duration", "metadata"}
        assert t.shutdown(10).ok


def test_of_changes_that_wait_together_a_refused_one_costs_itself(tmp_path: Path) -> None:
    def verdict(seen: Seen) -> Answer | None:
        bad = seen.method == "PUT" and "bad" in seen.body.get("metrics", {})
        return Answer(400) if bad else None

    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)
        with t.tool("work") as span:
            pass
        t.enrich_span(event_id=span.id, metrics={"a": 1})
        t.enrich_span(event_id=span.id, metrics={"bad": 1})
        t.enrich_span(event_id=span.id, metrics={"b": 1})
        assert t.shutdown(10).ok
        mine = [body for event_id, body in server.updates if event_id == span.id]
        assert mine == [{"metrics": {"a": 1}}, {"metrics": {"b": 1}}]


# -- flush ---------------------------------------------------------------------------------


def test_flush_makes_one_attempt_at_once_whatever_the_backoff_says(tmp_path: Path) -> None:
    down = True
    with ContractServer(lambda _: Answer(503) if down else None) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.tool("work"):
            pass
        for _ in range(6):  # the backoff grows with each
            before = len(server.seen)
            result = t.flush(10)
            assert not result.ok
            assert result.spooled == 1
            assert "as told" in str(result.reason)
            assert len(server.seen) > before
        down = False
        result = t.flush(10)
        assert (result.ok, result.delivered, result.spooled) == (True, 1, 0)
        assert (result.dropped, result.reason) == ({}, None)
        assert_books(t.stats())
        t.shutdown(10)


def test_flush_makes_no_attempt_before_retry_after_is_over(tmp_path: Path) -> None:
    with ContractServer(lambda _: Answer(429, {"Retry-After": "30"})) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.tool("work"):
            pass
        assert not t.flush(10).ok
        for _ in range(3):
            result = t.flush(10)
            assert not result.ok
            assert result.spooled == 1
            assert result.seconds < 10, "returns early: the rest can only wait"
        assert len(server.seen) == 1
        assert_books(t.stats())
        assert not t.shutdown(10).ok
        assert len(server.seen) == 1


def test_flush_respects_its_timeout(tmp_path: Path) -> None:
    waiting = threading.Event()
    released = threading.Event()

    def hang(_: Seen) -> Answer | None:
        waiting.set()
        assert released.wait(60)
        return None

    with ContractServer(hang) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, timeout=60)
        with t.tool("work"):
            pass
        result = t.flush(0.2)
        assert waiting.wait(10)
        assert not result.ok
        assert "not done within 0.2 s" in str(result.reason)
        assert result.seconds >= 0.2
        assert_books(t.stats())
        released.set()
        assert t.flush(20).ok
        t.shutdown(10)


def test_flush_says_when_the_server_is_down(tmp_path: Path) -> None:
    t = Tracer(server_url="http://127.0.0.1:9", spool_dir=tmp_path)
    with t.tool("work"):
        pass
    result = t.flush(10)
    assert not result.ok
    assert (result.spooled, result.queued, result.dropped) == (1, 0, {})
    assert "cannot reach http://127.0.0.1:9" in str(result.reason)
    assert_books(t.stats())
    assert not t.shutdown(10).ok
    assert t.stats().spooled == 1
    assert_books(t.stats())


def test_flush_in_memory_mode_counts_what_the_end_costs(tmp_path: Path) -> None:
    t = Tracer(server_url="http://127.0.0.1:9", durable=False)
    for _ in range(7):
        with t.tool("work"):
            pass
    result = t.flush(10)
    assert (result.ok, result.queued, result.spooled) == (False, 7, 0)
    ended = t.shutdown(0.5)
    assert not ended.ok
    wait_until(lambda: t.stats().dropped == {"shutdown": 7})
    assert_books(t.stats())


def test_local_mode_keeps_everything_in_the_journal(tmp_path: Path) -> None:
    t = Tracer(local=True, spool_dir=tmp_path)
    for _ in range(5):
        with t.tool("work"):
            pass
    result = t.flush(10)
    assert (result.ok, result.spooled, result.reason) == (True, 5, None)
    ended = t.shutdown(10)
    assert (ended.ok, ended.spooled) == (True, 5)
    assert list(tmp_path.glob("*.segment"))
    assert_books(t.stats())


def test_f62_flush_and_shutdown_from_many_threads_end_together(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        for _ in range(500):
            with t.tool("work"):
                pass
        results: list[FlushResult] = []
        calls = [t.flush, t.shutdown] * 10
        threads = [threading.Thread(target=lambda c=c: results.append(c(30))) for c in calls]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert time.monotonic() - started < 30, "somebody waited for nobody"
        assert [r.ok for r in results] == [True] * 20
        assert len(server.events) == 500
        with t.tool("too late"):
            pass
        assert t.stats().dropped == {"shutdown": 1}
        assert_books(t.stats())
        assert t.shutdown().ok, "again"


def test_record_after_a_shutdown_that_timed_out_is_counted(tmp_path: Path) -> None:
    released = threading.Event()

    def hang(_: Seen) -> Answer | None:
        assert released.wait(60)
        return None

    with ContractServer(hang) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path, timeout=60)
        with t.tool("work"):
            pass
        assert not t.shutdown(0.1).ok
        with t.tool("too late"):
            pass
        assert t.stats().dropped == {"shutdown": 1}
        released.set()
        wait_until(lambda: t.stats().delivered == 1)
        assert_books(t.stats())


def test_the_end_of_a_session_says_what_was_recorded_and_lost(tmp_path: Path) -> None:
    """So that a receiver can tell that something is missing."""
    told: list[tuple[str, int]] = []
    failed: list[TransportError] = []

    def verdict(seen: Seen) -> Answer | None:
        bad = seen.is_batch and any(e["event_name"] == "bad" for e in seen.body["events"])
        return Answer(400) if bad else None

    with ContractServer(verdict) as server:
        t = Tracer(
            server_url=server.url,
            spool_dir=tmp_path,
            flush_interval=3600,
            on_drop=lambda reason, number: told.append((reason, number)),
            on_error=failed.append,
        )
        with t.session("chat", metadata={"mine": 1}) as chat:
            for name in ("good", "bad", "good", "bad", "good"):
                with t.tool(name):
                    pass
        with t.session("other") as other, t.tool("good"):
            pass
        assert t.shutdown(10).ok
        ends = {event_id: body["metadata"] for event_id, body in server.updates}
        telemetry = {"recorded": 5, "dropped": {"rejected": 2}}
        assert ends[chat.id] == {"tracer": {"telemetry": telemetry}}
        assert ends[other.id] == {"tracer": {"telemetry": {"recorded": 1}}}
        assert told == [("rejected", 2)]
        assert failed
        assert {error.status for error in failed} == {400}
        assert_books(t.stats())


def test_what_memory_had_no_room_for_is_told_with_the_session_too(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = Tracer(server_url=server.url, durable=False, max_queue=10, flush_interval=3600)
        with t.session("chat") as chat:
            for _ in range(15):
                with t.tool("work"):
                    pass
        assert t.shutdown(10).ok
        ((event_id, body),) = server.updates
        telemetry = {"recorded": 15, "dropped": {"queue_full": 5}}
        assert (event_id, body["metadata"]) == (chat.id, {"tracer": {"telemetry": telemetry}})
        assert len(server.events) == 10
