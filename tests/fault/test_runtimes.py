"""Event loops, greenlets and pools of processes: the right parents, nothing lost, no hang."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
import uvloop
from fakes import ContractServer
from journal import events, local_tracer
from programs import Finished, environment, run

from tracer.threads import install, uninstall
from tracer.tracer import Tracer

Sleep = Callable[[float], Awaitable[None]]
Event = dict[str, Any]


def assert_right_parents(found: list[Event], jobs: int) -> None:
    """Each job is a root with two leaves, one inside the other, all of its own number."""
    assert len(found) == 3 * jobs
    by_id = {event["event_id"]: event for event in found}
    above = {"job": None, "leaf": "job", "inner": "leaf"}
    for event in found:
        parent = by_id.get(event.get("parent_id", ""))
        assert above[event["event_name"]] == (parent and parent["event_name"])
        assert not parent or parent["inputs"] == event["inputs"]


async def job(tracer: Tracer, number: int, sleep: Sleep, chosen: random.Random) -> None:
    inputs = {"number": number}
    async with tracer.chain("job", inputs=inputs):
        await sleep(chosen.random() * 0.01)
        with tracer.tool("leaf", inputs=inputs):
            await sleep(0)
            async with tracer.tool("inner", inputs=inputs):
                await sleep(chosen.random() * 0.01)


async def gathered(tracer: Tracer, number: int) -> None:
    chosen = random.Random(1)  # noqa: S311 - no secret is made of it
    await asyncio.gather(*(job(tracer, n, asyncio.sleep, chosen) for n in range(number)))


def test_f74_tasks_that_interleave_at_random_keep_their_parents(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as tracer:
        asyncio.run(gathered(tracer, 10_000))
        assert_right_parents(events(tracer), 10_000)


async def in_any_nursery(tracer: Tracer, number: int) -> None:
    chosen = random.Random(1)  # noqa: S311 - no secret is made of it
    async with anyio.create_task_group() as group:
        for n in range(number):
            group.start_soon(job, tracer, n, anyio.sleep, chosen)


async def in_nursery(tracer: Tracer, number: int) -> None:
    chosen = random.Random(1)  # noqa: S311 - no secret is made of it
    async with trio.open_nursery() as nursery:
        for n in range(number):
            nursery.start_soon(job, tracer, n, trio.sleep, chosen)


def on_uvloop(tracer: Tracer, number: int) -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(gathered(tracer, number))
    finally:
        loop.close()


RUNTIMES: dict[str, Callable[[Tracer, int], None]] = {
    "uvloop": on_uvloop,
    "trio": lambda tracer, number: trio.run(in_nursery, tracer, number),
    "anyio on asyncio": lambda tracer, number: anyio.run(in_any_nursery, tracer, number),
    "anyio on trio": lambda tracer, number: anyio.run(
        in_any_nursery, tracer, number, backend="trio"
    ),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_f81_every_event_loop_keeps_the_parents(runtime: str, tmp_path: Path) -> None:
    with local_tracer(tmp_path) as tracer:
        RUNTIMES[runtime](tracer, 1000)
        assert_right_parents(events(tracer), 1000)


def on_uvloop_in_thread(work: Callable[[], None]) -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(loop.run_in_executor(None, work))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


IN_THREAD: dict[str, Callable[[Callable[[], None]], None]] = {
    "uvloop": on_uvloop_in_thread,
    "trio": lambda work: trio.run(trio.to_thread.run_sync, work),
    "anyio": lambda work: anyio.run(anyio.to_thread.run_sync, work),
}


@pytest.mark.parametrize("runtime", IN_THREAD)
def test_f81_threads_of_an_event_loop_are_below_who_asked(runtime: str, tmp_path: Path) -> None:
    install()
    try:
        with local_tracer(tmp_path) as tracer:

            def work() -> None:
                with tracer.tool("leaf"):
                    pass

            for _ in range(3):  # the loops keep their threads, and give them to the next
                with tracer.chain("root"):
                    IN_THREAD[runtime](work)
            roots = {e["event_id"] for e in events(tracer) if e["event_name"] == "root"}
            parents = [e["parent_id"] for e in events(tracer) if e["event_name"] == "leaf"]
            assert len(parents) == 3
            assert set(parents) == roots
    finally:
        uninstall()


# -- gevent: each in a process of its own, since patching cannot be undone -------------------------

PATCH = "from gevent import monkey; monkey.patch_all()\n"
GREENLETS = """
import gevent
longest = [0.0]
def watch():
    while True:
        before = time.monotonic()
        gevent.sleep(0.001)
        longest[0] = max(longest[0], time.monotonic() - before)
def job(number):
    inputs = {"number": number}
    with t.chain("job", inputs=inputs):
        gevent.sleep(number % 7 / 1000)
        with t.tool("leaf", inputs=inputs):
            gevent.sleep(0)
            with t.tool("inner", inputs=inputs):
                gevent.sleep(number % 3 / 1000)
watching = gevent.spawn(watch)
gevent.joinall([gevent.spawn(job, n) for n in range(500)])
flushed = t.flush(20)
assert flushed.ok and flushed.queued + flushed.spooled == 0, flushed
gevent.joinall([gevent.spawn(job, n) for n in range(500, 1000)])
watching.kill()
"""
START = "import sys, time\nimport tracer\nt = tracer.init(flush_interval=0.5)\n"
PATCHED = {
    "before the import": f"{PATCH}{START}",
    "after init": f"{START}{PATCH}",
    "after the import": f"import tracer, tracer.default\n{PATCH}{START}",
    "beside the running thread": f"{START}\nwith t.chain('early'): pass\nt.flush(20)\n{PATCH}",
}


@pytest.mark.parametrize("durable", ["1", "0"])
@pytest.mark.parametrize("patched", PATCHED)
def test_f80_greenlets_lose_nothing_and_wait_for_nobody(
    patched: str, durable: str, tmp_path: Path
) -> None:
    """Flushed in between, and left to the exit at the end."""
    with ContractServer() as server:
        env = environment(
            HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool", HH_DURABLE=durable
        )
        ended = run(f"{PATCHED[patched]}{GREENLETS}", env=env)
        found = [e for e in server.events.values() if e["event_name"] != "early"]
        assert_right_parents(found, 1000)
        assert server.resent == 0
    assert ended.code == 0, ended.err
    # gevent itself says of every thread that ran before it patched that it ended
    if patched != "beside the running thread":
        assert errors_in(ended) == ""


def errors_in(ended: Finished) -> str:
    """What a program printed, without gevent's own advice to patch earlier."""
    lines = ended.err.splitlines()
    return "\n".join(
        line for line in lines if "MonkeyPatchWarning" not in line and "patch_all()" not in line
    )


def test_f80_threads_and_pools_under_gevent_are_carried(tmp_path: Path) -> None:
    program = f"""{PATCH}{START}
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from tracer.threads import install
import gevent
install()
def leaf(name):
    with t.tool(name): pass
with t.chain("root"):
    thread = Thread(target=leaf, args=("thread",)); thread.start(); thread.join()
    with ThreadPoolExecutor(2) as pool: list(pool.map(leaf, ["pool"] * 5))
    gevent.spawn(leaf, "spawned").join()
    gevent.spawn(t.bind(leaf), "bound").join()
    gevent.get_hub().threadpool.apply(t.bind(leaf), ("native",))
"""
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        ended = run(program, env=env)
        assert (ended.code, ended.err) == (0, "")
        found = list(server.events.values())
    (root,) = [e["event_id"] for e in found if e["event_name"] == "root"]
    below = Counter(e["event_name"] for e in found if e.get("parent_id") == root)
    # a greenlet begins with a context of its own, which is empty: that one needs `bind`
    assert below == {"thread": 1, "pool": 5, "bound": 1, "native": 1}
    assert len(found) == 10


# -- process pools -------------------------------------------------------------------------------

POOL = """
import sys, multiprocessing
from concurrent.futures import ProcessPoolExecutor
import tracer
from tracer.threads import install
install()
{init}

def leaf(name, **kwargs):
    with tracer.tool(name, inputs=kwargs) as span:
        return span.id

@tracer.chain
def quiet():
    with tracer.suppress():
        return pool.submit(leaf, "never").result(60)

if __name__ == "__main__":
    {start}
    method = sys.argv[1]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for number in range(3):
            with tracer.session(f"chat {{number}}"), tracer.chain(f"root {{number}}"):
                for _ in range(5):
                    pool.submit(leaf, f"leaf {{number}}", carrier=1, task=2).result(60)
                list(pool.map(leaf, [f"leaf {{number}}"] * 5))
        with tracer.session("alone"):
            pool.submit(leaf, "in a session").result(60)
        pool.submit(leaf, "outside").result(60)
        quiet()
        try:
            with tracer.chain("root x"): pool.submit(lambda: 1).result(60)
        except Exception as error:
            print(type(error).__name__, "lambda" in str(error))
"""
INIT = "t = tracer.init(flush_interval=0.5)"
WHERE = {
    "in the module": {"init": INIT, "start": ""},
    "from the environment": {"init": "", "start": ""},
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "method", [m for m in multiprocessing.get_all_start_methods() if m in ("fork", "spawn")]
)
def test_the_tasks_of_a_process_pool_are_below_the_span_that_submitted(
    method: str, where: str, tmp_path: Path
) -> None:
    file = tmp_path / "pools.py"
    file.write_text(POOL.format(**WHERE[where]))
    launch = f"""
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-W", "ignore", {str(file)!r}, {method!r}]).returncode)
"""
    with ContractServer() as server:
        env = environment(
            HH_API_URL=server.url, HH_API_KEY="hh_test", HH_SPOOL_DIR=tmp_path / "spool"
        )
        ended = run(launch, env=env)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out in ("PicklingError True\n", "AttributeError True\n")
        after = "import tracer\nt = tracer.init()\nwith t.chain('next'): pass\n"
        assert run(after, env=env).code == 0  # a worker may have ended before it sent
        found = [e for e in server.events.values() if e["event_name"] != "next"]
        names = {s: body["session_name"] for s, body in server.sessions.items()}
    roots = {e["event_id"]: e for e in found if e["event_name"].startswith("root")}
    leaves = [e for e in found if e["event_name"].startswith("leaf")]
    assert len(leaves) == 30
    for leaf in leaves:
        number = leaf["event_name"][-1]
        assert roots[leaf["parent_id"]]["event_name"] == f"root {number}"
        assert names[leaf["session_id"]] == f"chat {number}"
    (alone,) = [e for e in found if e["event_name"] == "in a session"]
    assert names[alone["session_id"]] == "alone"
    (outside,) = [e for e in found if e["event_name"] == "outside"]
    assert "parent_id" not in alone
    assert "parent_id" not in outside
    assert not [e for e in found if e["event_name"] == "never"]
    assert len(found) == 30 + 4 + 3
