"""A process dies in the midst of calls: the next start shows which."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from fakes import Answer, ContractServer
from programs import environment, run, spawn, wait_until

PROGRAM = """
import os, signal, sys, time
import tracer

t = tracer.init(flush_interval=0.5)
with t.session("agent"):
    with t.chain("agent", inputs={"question": "why?"}) as agent:
        with t.tool("done") as done:
            pass
        with t.model("call", inputs={"messages": ["hello"], "password": "hunter2"}) as call:
            print(agent.id, call.id, done.id, agent.session_id, flush=True)
            time.sleep(float(sys.argv[1]))
        if sys.argv[2] == "within":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""
NEXT = """
import tracer
t = tracer.init()
with t.chain("next"): pass
while not t.flush(20).ok: pass
assert t.shutdown(20).ok
s = t.stats()
print(s.recorded_interrupted)
assert s.recorded + s.adopted_in == s.delivered + sum(s.dropped.values()), s
"""


def test_the_call_a_process_died_in_is_shown_as_interrupted(tmp_path: Path) -> None:
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        program = spawn(PROGRAM, 600, "within", env=env)
        assert program.stdout is not None
        agent, call, done, session = program.stdout.readline().split()

        def opened() -> int:
            return sum(
                path.read_bytes().count(b"interrupted: process ended")
                for path in tmp_path.glob("spool/*.segment")
            )

        wait_until(lambda: opened() == 2 and done in server.events, what="both are in the journal")
        os.kill(program.pid, signal.SIGKILL)
        program.communicate()
        assert set(server.events) == {done}

        refused = iter([True, True])
        server.verdict = lambda seen: (
            Answer(500) if seen.is_batch and next(refused, False) else None
        )
        after = run(NEXT, env=env)
        assert after.out == "2\n", "counted once, however often they are sent"
        found = server.events
        assert found[agent]["inputs"] == {"question": "why?"}
        assert found[call]["inputs"]["messages"] == ["hello"]
        assert "hunter2" not in str(found[call])
        assert found[call]["parent_id"] == agent
        assert "parent_id" not in found[agent]
        for event_id in (agent, call):
            assert found[event_id]["session_id"] == session
            assert found[event_id]["error"] == "interrupted: process ended"
            assert found[event_id]["metadata"]["tracer"] == {"interrupted": True}
            assert not {"end_time", "duration"} & found[event_id].keys()
            assert found[event_id]["start_time"] > 1.7e12
        assert "error" not in found[done]
    assert not list(tmp_path.glob("spool/*.segment"))


@pytest.mark.parametrize(("where", "interrupted"), [("within", 1), ("behind", 0)])
def test_what_ended_before_the_death_is_not_shown_as_interrupted(
    where: str, interrupted: int, tmp_path: Path
) -> None:
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        assert run(PROGRAM, 2.2, where, env=env).code == -signal.SIGKILL
        written = b"".join(path.read_bytes() for path in tmp_path.glob("spool/*.segment"))
        assert written.count(b"interrupted: process ended") == 2, "both were open for long"
        after = run(NEXT, env=env)
        assert (after.err, after.out) == ("", f"{interrupted}\n")
        assert {e["event_name"]: "error" in e for e in server.events.values()} == {
            "agent": bool(interrupted),
            "call": False,
            "done": False,
            "next": False,
        }
        assert server.resent == 0


def test_a_span_left_open_at_an_orderly_end_is_interrupted_too(tmp_path: Path) -> None:
    program = """
import time, tracer
t = tracer.init()
span = t.start_span("never ended")
time.sleep(2.5)
"""
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        ended = run(program, env=env)
        assert (ended.err, ended.code) == ("", 0)
        assert server.events == {}
        assert run(NEXT, env=env).out == "1\n"
        assert {e["event_name"] for e in server.events.values()} == {"never ended", "next"}
