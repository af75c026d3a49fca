"""The program is killed with SIGKILL: what its calls acknowledged is sent by its next start."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from collector_process import CollectorProcess
from programs import assert_exact, environment, run, spawn, stored, wait_until

# Four threads record as fast as they can. Each id goes to the witness only after the call that
# recorded it returned, with a write(2) of its own: what the witness holds must never be lost.
LOADED = """
import os, sys, threading
import tracer

t = tracer.init()
witness = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def load(number):
    n = 0
    while True:
        with t.session(f"s{number}"):
            for _ in range(50):
                n += 1
                with t.chain("outer", inputs={"text": "x" * (n % 3000)}) as outer:
                    with t.tool("inner", inputs={"parent": outer.id}) as inner:
                        pass
                    os.write(witness, f"{inner.id} {outer.id} {outer.session_id}\\n".encode())
                os.write(witness, f"{outer.id} - {outer.session_id}\\n".encode())

for number in range(4):
    threading.Thread(target=load, args=(number,), daemon=True).start()
print("loading", flush=True)
threading.Event().wait()
"""

# The next start: the first event of the same destination takes over what the dead left.
NEXT = """
import json, tracer
t = tracer.init()
with t.chain("next start") as span:
    pass
result = t.flush(30)
assert result.ok, result
s = t.stats()
placed = s.delivered + s.queued + s.in_flight + s.spooled
assert s.recorded + s.adopted_in == placed + sum(s.dropped.values()), s
print(json.dumps([s.adopted_in, s.dropped]))
t.shutdown()
"""


def kill_under_load(witness: Path, env: dict[str, str], delay: float) -> None:
    program = spawn(LOADED, witness, env=env)
    assert program.stdout is not None
    assert program.stdout.readline() == "loading\n"
    moment = time.perf_counter() + delay
    while time.perf_counter() < moment:  # spins: a sleep would round the microseconds
        pass
    program.kill()
    program.communicate()


def acknowledged(witness: Path) -> dict[str, tuple[str, str]]:
    lines = witness.read_text().splitlines() if witness.exists() else []
    return {e: (parent, session) for e, parent, session in map(str.split, lines)}


@pytest.mark.parametrize("destination", ["server up", "server down"])
def test_f31_every_acknowledged_event_survives_sigkill(
    destination: str, tmp_path: Path, collector: CollectorProcess
) -> None:
    rounds = 10
    env = environment(HH_API_URL=collector.url, HH_SPOOL_DIR=tmp_path / "spool")
    if destination == "server down":
        collector.kill()
    chance = random.Random(31)  # noqa: S311 - moments, no secrets
    for number in range(rounds):
        # from the first microseconds after the start, where the first segment is made, on
        delay = chance.choice([0.0, 0.0003, 0.003, 0.03, 0.3]) * chance.random()
        kill_under_load(tmp_path / f"witness{number}", env, delay)
    if destination == "server down":
        collector.restart()
    assert list((tmp_path / "spool").glob("*.segment")), "nothing was left to adopt"

    after = run(NEXT, env=env)
    assert after.code == 0, after.err

    acks: dict[str, tuple[str, str]] = {}
    for number in range(rounds):
        acks.update(acknowledged(tmp_path / f"witness{number}"))
    rows = stored(collector.db)
    found = {row.event_id: row for row in rows}
    assert len(found) == len(rows), "an event is visible twice"
    lost = acks.keys() - found.keys()
    assert not lost, f"{len(lost)} of {len(acks)} acknowledged events were lost"
    assert len(acks) > 100, "the load was too small to show anything"
    for event_id, (parent, session) in acks.items():
        row = found[event_id]
        assert row.session_id == session
        assert row.parent_id == (session if parent == "-" else parent)
        text = row.inputs.get("text")
        assert text is None or set(text) <= {"x"}, "a payload arrived damaged"
    # an event that no call acknowledged may be there: it was recorded, the kill came before
    # its line in the witness; but one a thread at most can have been between the two
    surplus = found.keys() - acks.keys()
    assert len(surplus) <= rounds * 8 + 1
    # unfinished files are left alone for a minute: their maker may be about to lock them
    assert not list((tmp_path / "spool").glob("*.segment")), "settled segments stay on disk"


def test_f31_sessions_and_their_ends_survive_sigkill(
    tmp_path: Path, collector: CollectorProcess
) -> None:
    collector.kill()
    env = environment(HH_API_URL=collector.url, HH_SPOOL_DIR=tmp_path / "spool")
    ended = run(
        """
        import os, signal, tracer
        t = tracer.init()
        with t.session("a long chat", user_properties={"user": "u1"}):
            with t.chain("only") as span:
                pass
            t.enrich_session(outputs={"status": "ok"})
        t.enrich_span(event_id=span.id, feedback={"rating": 5})
        print(span.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        env=env,
    )
    assert ended.code == -9
    collector.restart()
    assert run(NEXT, env=env).code == 0
    row = next(r for r in stored(collector.db) if r.event_id == ended.out.strip())
    (session,) = [s for s in stored(collector.db, sessions=True) if s.event_id == row.session_id]
    assert session.name == "a long chat"
    assert session.outputs == {"status": "ok"}
    assert session.duration is not None
    assert session.end_time is not None


def test_f32_every_way_to_die_keeps_the_journal(
    tmp_path: Path, collector: CollectorProcess
) -> None:
    env = environment(HH_API_URL=collector.url, HH_SPOOL_DIR=tmp_path / "spool")
    collector.kill()
    expected: set[str] = set()
    for death in (
        "os.abort()",
        "os._exit(7)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.execv('/bin/true', ['true'])",
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)",
    ):
        program = f"""
            import ctypes, os, resource, signal, tracer
            t = tracer.init()
            for n in range(10):
                with t.tool("work", inputs={{"n": n}}) as span:
                    pass
                print(span.id, flush=True)
            {death}
            """
        ended = run(program, env=env)
        ids = ended.out.split()
        assert len(ids) == 10, (death, ended)
        expected.update(ids)
    collector.restart()
    assert run(NEXT, env=env).code == 0
    rows = [row for row in stored(collector.db) if row.name == "work"]
    assert_exact(rows, expected)


def test_f39_a_living_process_adopts_what_a_killed_sibling_left(
    tmp_path: Path, collector: CollectorProcess
) -> None:
    env = environment(
        HH_API_URL=collector.url, HH_SPOOL_DIR=tmp_path / "spool", HH_FLUSH_INTERVAL="0.5"
    )
    living = spawn(
        """
        import sys, threading, tracer
        t = tracer.init()
        with t.chain("alive"):
            pass
        print("alive", flush=True)
        threading.Event().wait()
        """,
        env=env,
    )
    try:
        assert living.stdout is not None
        assert living.stdout.readline() == "alive\n"
        wait_until(lambda: any(row.name == "alive" for row in stored(collector.db)))
        dead = run(
            """
            import os, signal, tracer
            t = tracer.init(flush_interval=60)
            for _ in range(100):
                with t.tool("work") as span:
                    pass
                print(span.id)
            sys = __import__("sys"); sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            env=env,
        )
        expected = set(dead.out.split())
        assert len(expected) == 100
        wait_until(
            lambda: expected <= {row.event_id for row in stored(collector.db)},
            15,
            "the living process takes over",
        )
        assert_exact([row for row in stored(collector.db) if row.name == "work"], expected)
    finally:
        living.kill()
        living.communicate()
