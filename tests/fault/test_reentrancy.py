"""Faults F67 to F72: what records while we work, on any thread, neither hangs nor echoes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import ContractServer
from programs import environment, run

RUNS = [pytest.param(1, id="once"), pytest.param(20, id="20", marks=pytest.mark.slow)]


@pytest.fixture(params=["D", "M"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server() -> Iterator[ContractServer]:
    with ContractServer() as running:
        yield running


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
        assert t.flush(10).ok
gc.set_threshold(700)
gc.collect()
gc.callbacks.clear()
made = {who: len(times) for who, times in made.items()}
"""


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
