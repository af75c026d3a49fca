"""What a test sees of what it records, and that the rest of the world sees nothing of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from programs import assert_books, environment, run
from raw_server import RawServer, answer

import tracer
from tracer import default
from tracer.context import CURRENT
from tracer.errors import ConfigError
from tracer.testing import Captured, capture
from tracer.tracer import Tracer

ID = "7f0c3f0e-6e2c-4b0a-9d43-1d2f3a4b5c6d"


@pytest.fixture(autouse=True)
def _fresh_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test a default tracer that nobody has asked for yet."""
    CURRENT.set(None)
    for name, value in {"tracer": None, "recorder": None, "pending": True}.items():
        monkeypatch.setattr(default._default, name, value)
    yield
    if default._default.tracer is not None:
        default._default.tracer.shutdown(0.5)


@tracer.tool
def lookup(order_id: str) -> dict[str, str]:
    if order_id == "B1":
        raise KeyError(order_id)
    return {"order": order_id}


@tracer.tool
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x


def agent() -> None:
    """Record one of each: session, chain, tool, error, enrichment, update, logged event."""
    with tracer.session("chat 42", inputs={"q": 1}, user_properties={"id": "u"}):
        with tracer.chain("plan", inputs={"question": "Where?"}) as span:
            span.set(outputs=lookup("A7"))
            with pytest.raises(KeyError):
                lookup("B1")
            tracer.log_event("model", "answer", inputs={}, outputs={"text": "there"})
        tracer.enrich_span(event_id=span.id, metadata={"late": 1})
        tracer.enrich_session(outputs={"status": "ok"})


def names(found: list[dict[str, Any]]) -> list[str]:
    return [event["event_name"] for event in found]


# -- what is seen ------------------------------------------------------------------------------


def test_what_the_functions_record_is_there_in_the_order_it_ended() -> None:
    with capture() as captured:
        agent()
    assert names(captured.events) == ["lookup", "lookup", "answer", "plan"]
    plan = captured.only("plan")
    assert [event.get("parent_id") for event in captured.events] == [plan["event_id"]] * 3 + [None]
    assert captured.named("lookup")[0]["inputs"] == {"order_id": "A7"}
    assert captured.named("lookup")[1]["error"] == "KeyError: 'B1'"
    assert plan["outputs"] == {"order": "A7"}


def test_an_event_is_there_as_soon_as_it_ended() -> None:
    with capture() as captured:
        assert (captured.events, captured.sessions, captured.updates) == ([], [], [])
        with tracer.chain("outer"):
            lookup("A7")
            assert names(captured.events) == ["lookup"]
        assert names(captured.events) == ["lookup", "outer"]


def test_updates_are_listed_and_merged_as_the_server_does() -> None:
    with capture() as captured:
        with tracer.session("s", metadata={"a": 1, "b": {"c": 1}}) as session:
            with tracer.chain("c", metadata={"a": 1, "b": {"c": 1}}) as span:
                pass
            tracer.enrich_span(event_id=span.id, metadata={"b": {"d": 2}}, feedback={"ok": True})
            tracer.enrich_session(metadata={"b": {"d": 2}})
            tracer.enrich_session(outputs={"status": "ok"})
        tracer.enrich_session(session_id=ID, outputs={"elsewhere": True})
    (found,) = captured.sessions
    event = captured.only()
    assert found["session_id"] == event["session_id"] == session.id
    assert found["metadata"] == event["metadata"] == {"a": 1, "b": {"d": 2}}
    assert event["feedback"] == {"ok": True}
    assert found["outputs"] == {"status": "ok"}
    assert found["end_time"] == found["start_time"] + int(found["duration"])
    changes = [(change.pop("event_id"), list(change)) for change in captured.updates]
    assert changes == [
        (span.id, ["metadata", "feedback"]),
        (session.id, ["metadata"]),
        (session.id, ["outputs"]),
        (session.id, ["end_time", "duration"]),
        (ID, ["outputs"]),
    ]


def test_a_session_opened_twice_is_one_session() -> None:
    with capture() as captured:
        for number in range(2):
            with tracer.session(f"s{number}", session_id=ID, metadata={f"m{number}": number}):
                lookup("A7")
    (found,) = captured.sessions
    assert (found["session_name"], found["metadata"]) == ("s0", {"m0": 0, "m1": 1})


def test_what_is_handed_out_is_a_copy() -> None:
    with capture() as captured:
        agent()
    for found in (captured.events, captured.sessions, captured.updates):
        for record in found:
            record.clear()
        found.clear()
    assert len(captured.events) == 4
    assert captured.only("plan")["outputs"] == {"order": "A7"}
    assert captured.sessions[0]["session_name"] == "chat 42"
    assert captured.updates[0]["metadata"] == {"late": 1}


def test_only_says_what_there_is() -> None:
    with capture() as captured:
        with pytest.raises(AssertionError, match=r"^one event was expected, not 0; nothing was"):
            captured.only()
        lookup("A7")
        assert captured.only() == captured.only("lookup") == captured.named("lookup")[0]
        lookup("B2")
    with pytest.raises(AssertionError) as failure:
        captured.only("lookup")
    assert str(failure.value) == (
        "one event named 'lookup' was expected, not 2; recorded were:\n" + captured.tree()
    )
    with pytest.raises(AssertionError, match="one event named 'gone' was expected, not 0; rec"):
        captured.only("gone")
    assert captured.named("gone") == []


def test_nothing_is_lost_however_much_there_is() -> None:
    """A tracer in memory refuses what is beyond its bounds; a test is to see all of it."""
    with capture() as captured:
        for _ in range(20):
            with tracer.tool("large", inputs={"text": "x" * ((4 << 20) - 1000)}):
                pass
    assert len(captured.events) == 20


# -- the tree ----------------------------------------------------------------------------------

TREE = """\
session chat 42 {"q": 1} → {"status": "ok"}
└─ chain plan {"question": "Where?"} → {"order": "A7"}
   ├─ tool lookup {"order_id": "A7"} → {"order": "A7"}
   ├─ tool lookup {"order_id": "B1"} !! KeyError: 'B1'
   └─ model answer → {"text": "there"}
"""


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_tree_shows_what_happened(deterministic: bool) -> None:  # noqa: FBT001 - a parameter
    with capture(deterministic=deterministic) as captured:
        agent()
    assert captured.tree() == TREE


def test_the_tree_of_nothing_is_empty() -> None:
    with capture() as captured:
        pass
    assert captured.tree() == ""


def test_the_tree_keeps_a_line_to_an_event() -> None:
    class Thing:
        pass

    with capture(deterministic=True) as captured:
        with suppress(ValueError), tracer.session("two\nlines"):
            tracer.log_event("tool", "t", inputs={"thing": Thing()}, outputs={"ä": "x" * 100})
            raise ValueError("first\n  second")
        with tracer.session("joined", session_id=ID):
            pass
    first, second, third = captured.tree().splitlines()
    assert first == "session two lines !! ValueError: first second"
    cut = '{"ä": "' + "x" * 52 + "…"
    assert second.endswith(f" → {cut}")
    assert second.startswith('└─ tool t {"thing": {"__type__": "')
    assert third == "session joined"


def test_the_tree_leaves_addresses_out() -> None:
    with capture() as captured:
        tracer.log_event("tool", "t", outputs=repr(object()), error=repr(object()))
    assert " at 0x" in captured.only()["outputs"]["result"]
    assert captured.tree().endswith(" !! <object object at 0x…>\n")


def test_an_event_of_a_session_opened_elsewhere_stands_at_the_top() -> None:
    with capture() as captured:
        tracer.init(session_id=ID, session_name="s")
        lookup("A7")
        tracer.enrich_session(session_id=ID, outputs={"a": 1})
    assert (
        captured.tree()
        .splitlines()[-1]
        .endswith('tool lookup {"order_id": "A7"} → {"order": "A7"}')
    )


# -- deterministic -----------------------------------------------------------------------------

PROGRAM = """
import json
import tracer
from tracer.testing import capture

@tracer.tool
def lookup(x):
    return {"x": x}

with capture(deterministic=True) as captured:
    with tracer.session("s"), tracer.chain("c") as span:
        lookup(1)
        lookup({"a", "b", "c"})
        tracer.log_event("model", "m")
    tracer.enrich_span(event_id=span.id, metrics={"n": 1})
print(json.dumps([captured.events, captured.sessions, captured.updates]), captured.tree())
"""


def test_equal_runs_are_equal_to_the_byte() -> None:
    first, second = (run(PROGRAM, env=environment(PYTHONHASHSEED=seed)) for seed in ("1", "2"))
    assert first.code == 0, first.err
    assert first.out == second.out
    assert '"event_id": "00000000-0000-4000-8000-000000000004"' in first.out


def test_ids_count_and_the_clock_steps() -> None:
    for _ in range(2):  # each capture begins anew
        with capture(deterministic=True) as captured:
            lookup("A7")
            lookup("B2")
        ids = [event["event_id"] for event in captured.events]
        assert ids == [f"00000000-0000-4000-8000-{number:012}" for number in (2, 3)]
        assert captured.sessions[0]["session_id"] == "00000000-0000-4000-8000-000000000001"
        times = [captured.sessions[0]["start_time"]]
        times += [time for e in captured.events for time in (e["start_time"], e["end_time"])]
        assert times == sorted(times)
        assert times[0] == 1_767_225_600_000
        assert len({event["start_time"] for event in captured.events}) == 2
        assert [event["duration"] for event in captured.events] == [1.0, 1.0]


def test_a_logged_event_without_times_uses_the_same_clock() -> None:
    with capture(deterministic=True) as captured:
        tracer.log_event("tool", "t")
    assert 0 < captured.only()["start_time"] - 1_767_225_600_000 < 100


def test_otherwise_ids_are_random_and_times_real() -> None:
    started = int(time.time() * 1000)
    with capture() as captured, capture() as inner:
        lookup("A7")
        tracer.log_event("tool", "t")
    assert captured.events == []
    for event in inner.events:
        assert started <= event["start_time"] <= time.time() * 1000
        assert not event["event_id"].startswith("00000000-0000-4000-8000")


# -- the rest of the world ---------------------------------------------------------------------


def test_no_network_no_disk_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(answer(200, b"{}")) as server:
        monkeypatch.setenv("HH_API_KEY", "hh_key")
        monkeypatch.setenv("HH_API_URL", server.url)
        monkeypatch.setenv("HH_SPOOL_DIR", str(tmp_path / "spool"))
        monkeypatch.setenv("HH_DISABLE_TRACING", "1")  # asked for by hand all the same
        before = threading.active_count()
        with capture() as captured:
            agent()
            assert tracer.flush().delivered == 4
        monkeypatch.delenv("HH_DISABLE_TRACING")
        with capture() as second:
            tracer.init(session_name="with a key")
            agent()
            assert tracer.flush().ok
            assert tracer.shutdown().delivered == 4
        assert threading.active_count() == before
        assert server.connections == 0
    assert len(captured.events) == len(second.events) == 4
    assert not (tmp_path / "spool").exists()
    assert not (tmp_path / "state").exists()


def test_the_tracer_that_was_there_goes_on_afterwards(tmp_path: Path) -> None:
    running = tracer.init(local=True, spool_dir=tmp_path)
    lookup("before")
    with capture() as captured:
        lookup("inside")
        assert tracer.stats().recorded == 1
    lookup("after")
    assert running.stats().recorded == 2
    assert tracer.init(local=True, spool_dir=tmp_path) is running
    assert captured.only()["inputs"] == {"order_id": "inside"}


def test_what_was_not_initialised_yet_is_not_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture():
        lookup("inside")
    assert (default._default.pending, default._default.tracer) == (True, None)
    assert default._default.recorder is None
    for name, value in {"HH_API_KEY": "k", "HH_LOCAL": "1", "HH_SPOOL_DIR": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    lookup("the first event")
    assert tracer.stats().recorded == 1


def test_captures_nest() -> None:
    with capture() as outer:
        lookup("1")
        with tracer.chain("open in the outer one"):
            with capture() as inner:
                lookup("2")
            lookup("3")
    assert [event["inputs"]["order_id"] for event in outer.named("lookup")] == ["1", "3"]
    assert inner.only()["inputs"] == {"order_id": "2"}
    assert "parent_id" not in inner.only()
    assert default._default.tracer is None


def test_captures_that_overlap_end_in_any_order() -> None:
    first, second, third = capture(), capture(), capture()
    first.__enter__()
    into_second = second.__enter__()
    into_third = third.__enter__()
    first.__exit__(None, None, None)
    lookup("third")
    third.__exit__(None, None, None)
    lookup("second")
    second.__exit__(None, None, None)
    assert into_third.only()["inputs"] == {"order_id": "third"}
    assert into_second.only()["inputs"] == {"order_id": "second"}
    assert (default._default.pending, default._default.tracer) == (True, None)


def test_an_exception_passes_and_restores() -> None:
    error = ValueError("the test's own")
    with pytest.raises(ValueError, match="own") as caught, capture():
        raise error
    assert caught.value is error
    assert default._default.pending


def test_init_inside_is_kept_here_with_its_options() -> None:
    with capture() as captured:
        lookup("before")
        first = tracer.init(session_name="mine", source="unit", api_key="hh_key")
        assert tracer.init(session_name="mine", source="unit", api_key="hh_key") is first
        assert captured.tracer is first
        lookup("after")
        with pytest.raises(ConfigError, match="batch_size"):
            tracer.init(batch_size=0)
        tracer.init(disable_tracing=True)
        lookup("switched off")
        tracer.init(session_name="again")
        lookup("again")
    found = [event["inputs"]["order_id"] for event in captured.events]
    assert found == ["before", "after", "again"]
    assert [s["session_name"] for s in captured.sessions] == ["test", "mine", "again"]
    assert captured.named("lookup")[1]["source"] == "unit"
    assert default._default.tracer is None


def test_shutdown_inside_keeps_what_there_is_and_refuses_the_rest() -> None:
    with capture() as captured:
        lookup("before")
        assert tracer.shutdown().delivered == 1
        lookup("after")
        assert tracer.stats().dropped == {"shutdown": 1}
        assert_books(tracer.stats())
    assert captured.only()["inputs"] == {"order_id": "before"}
    assert "end_time" in captured.sessions[0]


def test_code_that_takes_a_tracer_can_be_given_the_captured_one(tmp_path: Path) -> None:
    own = Tracer(local=True, spool_dir=tmp_path)
    with capture() as captured:
        with captured.tracer.chain("given"):
            pass
        with own.chain("independent"):
            pass
    assert names(captured.events) == ["given"]
    assert own.shutdown().spooled == 1


# -- threads, tasks, processes -----------------------------------------------------------------


def test_all_threads_are_captured_while_the_test_looks() -> None:
    def work() -> None:
        for _ in range(200):
            lookup("A7")

    with capture() as captured:
        threads = [Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert len(captured.events) <= 1600
        for thread in threads:
            thread.join()
    assert len({event["event_id"] for event in captured.events}) == len(captured.events) == 1600


def test_threads_that_look_at_once_see_everything_once() -> None:
    together = Barrier(4)
    seen: list[int] = []

    def look() -> None:
        together.wait(10)
        for _ in range(3):
            seen.append(len(captured.updates))

    with capture() as captured:
        for _ in range(500):
            tracer.enrich_session(metadata={"a": 1})
        threads = [Thread(target=look) for _ in range(4)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
    assert set(seen) == {500}


def test_tasks_find_their_parents() -> None:
    async def main() -> None:
        async with tracer.chain("all"):
            await asyncio.gather(*map(later, range(5)))

    with capture() as captured:
        asyncio.run(main())
    parent = captured.only("all")["event_id"]
    assert [e["parent_id"] for e in captured.named("later")] == [parent] * 5


def test_what_ends_after_the_block_appears_later() -> None:
    begun, go_on = Event(), Event()

    def work() -> None:
        with tracer.chain("slow"):
            begun.set()
            go_on.wait(10)

    with capture() as captured:
        thread = Thread(target=work)
        thread.start()
        assert begun.wait(10)
    assert captured.events == []
    go_on.set()
    thread.join()
    assert names(captured.events) == ["slow"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_keeps_what_it_records_to_itself() -> None:
    done = run(FORK)
    assert done.code == 0, done.err
    parent, child = map(json.loads, done.out.splitlines())
    assert parent == ["parent before", "parent after"]
    assert child["names"] == ["child"]
    assert child["ids are new"]


FORK = """
import json, os, sys, tracer
from tracer.testing import capture

with capture(deterministic=True) as captured:
    with tracer.tool("parent before"):
        pass
    before = captured.events
    read, write = os.pipe()
    if os.fork() == 0:
        with tracer.tool("child"):
            pass
        event = captured.events[-1]
        new = event["event_id"] not in [e["event_id"] for e in before] + [before[0]["session_id"]]
        found = {"names": [e["event_name"] for e in captured.events], "ids are new": new}
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.wait()
    with tracer.tool("parent after"):
        pass
print(json.dumps([e["event_name"] for e in captured.events]))
print(os.read(read, 1000).decode())
"""


def test_nothing_of_a_capture_stays_behind() -> None:
    def capture_once() -> tuple[weakref.ref[Tracer], weakref.ref[Captured]]:
        with capture() as captured:
            agent()
        return weakref.ref(captured.tracer), weakref.ref(captured)

    references = capture_once()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_capture_that_lives_until_the_exit_says_nothing() -> None:
    done = run(
        "import tracer\nfrom tracer.testing import capture\n"
        "with capture() as captured:\n    tracer.log_event('tool', 'unread')\n"
    )
    assert (done.code, done.out, done.err) == (0, "", "")
