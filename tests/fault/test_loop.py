"""Fault F79: an event loop that records does not wait for server or disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import environment, run
from raw_server import RawServer

# Records 500 events a second of 1 KiB in an event loop; prints how long each held it up, in ms, and
# which threads waited for the disk, on which every wait takes 20 ms. What recording adds to the lag
# of a loop is the time it spends on the loop's thread. A call that the kernel interrupted for
# another program is left out: that would have come at any other line.
LAG = """
import asyncio, json, os, resource, sys, threading, time
import tracer

waited = set()

def stall(*_):
    waited.add(threading.current_thread().name)
    time.sleep(0.02)  # the disk's, not ours

os.fsync = os.fdatasync = os.sync = stall
t = tracer.init(flush_interval=0.5)
text = "x" * 1000

@t.chain
async def work(text):
    return text

def interrupted():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw

async def one_second():
    found, due = [], time.perf_counter()
    for _ in range(100):
        due += 0.01
        await asyncio.sleep(due - time.perf_counter())
        for _ in range(5):
            times, before = interrupted(), time.perf_counter()
            await work(text)
            took = time.perf_counter() - before
            if times == interrupted():
                found.append(1e3 * took)
    found.sort()
    return {"calls": len(found), "p99": found[-len(found) // 100], "max": found[-1]}

async def main(rounds):
    return [await one_second() for _ in range(rounds)]

rounds = asyncio.run(main(int(sys.argv[1])))
s = t.stats()
print(json.dumps({
    "rounds": rounds, "recorded": s.recorded, "failures": s.failures, "delivered": s.delivered,
    "dropped": s.dropped, "attempts": s.attempts, "waited": sorted(waited),
}), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts interruptions by thread")
@pytest.mark.parametrize("mode", ["D", "M"])
@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
def test_f79_a_hung_server_and_a_slow_disk_do_not_hold_up_the_event_loop(
    rounds: int, mode: str, tmp_path: Path
) -> None:
    """Of the rounds the best counts: the thread that sends may be interrupted as well."""

    def hang(server: RawServer, *_: Any) -> None:
        server.pause(600)

    with RawServer(hang) as server:
        env = environment(
            HH_API_URL=server.url,
            HH_SPOOL_DIR=tmp_path / "spool",
            HH_DURABLE=str(int(mode == "D")),
        )
        ended = run(LAG, rounds, env=env, seconds=200)
        assert ended.code == 0, ended.err
        lines = ended.err.splitlines()
        assert not [line for line in lines if "no answer from" not in line], "after 10 s"
        assert server.requests, "somebody hung"
    said = json.loads(ended.out)
    assert said["recorded"] == 500 * rounds
    assert (said["failures"], said["delivered"], said["dropped"]) == (0, 0, {})
    assert said["attempts"] >= 1
    assert "MainThread" not in said["waited"]
    assert min(r["calls"] for r in said["rounds"]) > 400
    assert min(r["p99"] for r in said["rounds"]) <= 1
    assert min(r["max"] for r in said["rounds"]) <= 20
