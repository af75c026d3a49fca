"""What is decorated travels to other processes as what it decorates does, and records there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fakes import ContractServer
from programs import environment, run

KEY = "hh_canary_key_0123456789"

# Runs as `__main__`, so everything in it travels by value. `decorate` leaves it plain or not.
SENDER = """
import asyncio, functools, sys
import cloudpickle
import tracer

how, path, KEY = sys.argv[1:]
url = "http://127.0.0.1:9"
WAYS = {
    "plain": lambda: lambda func: func,
    "default": lambda: tracer.chain,
    "initialised": lambda: tracer.init(api_key=KEY, server_url=url, durable=False).chain,
    "session": lambda: tracer.session,
    "independent": lambda: independent.chain,
    "options": lambda: independent.tool(
        "named", only=["x"], process_outputs=lambda result: result, config={"a": 1}
    ),
    "twice": lambda: lambda func: tracer.chain(tracer.tool(func)),
}
independent = tracer.Tracer(api_key=KEY, server_url=url, durable=False)
decorate = WAYS[how]()
FACTOR = 10

def scaled(x):
    return x * FACTOR

@decorate
def function(x: int, *, y: int = 1) -> int:
    "Scale it."
    return scaled(x) + y

@decorate
async def coroutine(x: int, y: int = 1) -> int:
    await asyncio.sleep(0)
    return scaled(x) + y

@decorate
def generator(x: int, y: int = 1):
    "Give some."
    got = yield scaled(x)
    try:
        yield got
    except ValueError as error:
        yield str(error)
    return y

@decorate
async def async_generator(x: int, y: int = 1):
    got = yield scaled(x)
    try:
        yield got
    except ValueError as error:
        yield str(error)

@decorate
def fails(x):
    raise KeyError(x)

def nested(offset):
    @decorate
    def inner(x):
        return scaled(x) + offset
    return inner

def made():
    @decorate
    class Service:
        def __init__(self, offset):
            self.offset = offset
        def method(self, x):
            return scaled(x) + self.offset
        def steps(self, x):
            yield self.offset
            yield self.method(x)
        async def later(self, x):
            return self.method(x)
        @staticmethod
        def static(x):
            return scaled(x)
        @classmethod
        def of(cls, x):
            return cls(x).offset
    return Service

class Callable:
    offset = 3
    def __call__(self, x):
        return x + self.offset

Service = made()
things = {
    "function": function, "coroutine": coroutine, "generator": generator,
    "async_generator": async_generator, "fails": fails, "nested": nested(5), "class": Service,
    "instance": Service(2), "method": Service(3).method, "steps": Service(4).steps,
    "partial": decorate(functools.partial(scaled, x=4)),
    "object": decorate(Callable()),
    "later": Service(5).later,
}
sent = {name: cloudpickle.dumps(thing) for name, thing in things.items()}
assert not any(KEY.encode() in data for data in sent.values()), "the key travelled"
again = {name: cloudpickle.dumps(cloudpickle.loads(data)) for name, data in sent.items()}
with open(path, "wb") as file:
    file.write(cloudpickle.dumps((sent, again)))
"""

RECEIVER = """
import asyncio, inspect, json, sys
import cloudpickle
{init}

def drive(thing, x):
    steps = thing(x)
    seen = [next(steps), steps.send("sent"), steps.throw(ValueError("thrown"))]
    try:
        next(steps)
    except StopIteration as stop:
        return [*seen, stop.value]

async def drive_async(thing, x):
    steps = thing(x)
    seen = [await steps.asend(None), await steps.asend("sent")]
    seen.append(await steps.athrow(ValueError("thrown")))
    async for more in steps:
        seen.append(more)
    other = thing(x)
    await other.asend(None)
    await other.aclose()
    return seen

def use(name, thing):
    if name == "generator":
        return drive(thing, 2)
    if name == "async_generator":
        return asyncio.run(drive_async(thing, 2))
    if name in ("coroutine", "later"):
        return asyncio.run(thing(2))
    if name == "class":
        made = thing(7)
        return [made.method(2), list(made.steps(2)), asyncio.run(made.later(2)), thing.static(2),
                thing.of(2), thing.__name__]
    if name == "instance":
        return [thing.method(2), list(thing.steps(2))]
    if name == "steps":
        return list(thing(2))
    if name == "partial":
        return thing()
    try:
        return thing(2)
    except KeyError as error:
        return repr(error)

KINDS = [inspect.isfunction, inspect.ismethod, inspect.isclass, inspect.iscoroutinefunction,
         inspect.isgeneratorfunction, inspect.isasyncgenfunction]

def described(name, thing):
    seen = [[kind.__name__ for kind in KINDS if kind(thing)], use(name, thing), thing.__doc__]
    if name != "instance":
        seen.append(str(inspect.signature(thing)))
    return seen + [getattr(thing, "__qualname__", None), thing.__module__]

with open(sys.argv[1], "rb") as file:
    for sent in cloudpickle.load(file):
        print(json.dumps({{n: described(n, cloudpickle.loads(d)) for n, d in sent.items()}}))
"""


def received(how: str, directory: Path, init: str = "") -> list[Any]:
    """Return what another process sees of what one sent: at first hand, and sent on once more."""
    path = directory / how
    env = environment(XDG_STATE_HOME=directory)
    for program in ((SENDER, how, path, KEY), (RECEIVER.format(init=init), path)):
        ended = run(*program, env=env)
        assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


@pytest.fixture(scope="module")
def undecorated(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return received("plain", tmp_path_factory.mktemp("plain"))


WAYS = ("default", "initialised", "session", "independent", "options", "twice")
CALLED = {
    "async_generator": 2,
    "coroutine": 1,
    "fails": 1,
    "function": 1,
    "generator": 1,
    "inner": 1,
    "scaled": 1,  # the partial
    "Callable": 1,  # the object
    "Service.later": 2,
    "Service.method": 8,
    "Service.of": 1,
    "Service.static": 1,
    "Service.steps": 3,
}


@pytest.mark.parametrize("how", WAYS)
def test_what_travels_by_value_is_what_it_would_be_undecorated(
    how: str, tmp_path: Path, undecorated: list[Any]
) -> None:
    """The receiving process has no default tracer: nothing there was configured."""
    kinds, used = undecorated[0]["generator"][:2]
    assert kinds == ["isfunction", "isgeneratorfunction"]
    assert used == [20, "sent", "thrown", 1]
    assert received(how, tmp_path) == undecorated


@pytest.mark.parametrize("how", ["default", "initialised", "session", "independent"])
def test_what_travels_records_in_the_default_tracer_of_the_process_it_comes_to(
    how: str, tmp_path: Path, undecorated: list[Any]
) -> None:
    with ContractServer() as server:
        init = f"""
import tracer
tracer.init(server_url={server.url!r}, durable=False, session_name="receiver")
"""
        assert received(how, tmp_path, init) == undecorated
    opened = Counter(body["session_name"] for body in server.sessions.values())
    called = Counter(event["event_name"] for event in server.events.values())
    expected = Counter({name: 2 * number for name, number in CALLED.items()})
    if how == "independent":  # switched off: its key and its files stayed where they were
        assert (opened, called) == (Counter(), Counter())
    elif how == "session":
        assert (opened, called) == (expected, Counter())
    else:
        assert (opened, called) == (Counter(receiver=1), expected)
        found = {event["event_name"]: event for event in server.events.values()}
        assert found["generator"]["inputs"] == {"x": 2, "y": 1}
        assert found["generator"]["outputs"] == {"result": [20, "sent", "thrown"], "return": 1}
        assert found["coroutine"]["outputs"] == {"result": 21}
        assert found["fails"]["error"] == "KeyError: 2"


# A module of its own: what is in it travels by name.
MODULE = """
import functools, os
import tracer

independent = tracer.Tracer(local=True)

@tracer.tool
def function(x):
    return x, os.getpid()

@tracer.chain
def generator(x):
    yield x

@tracer.chain
def summed(steps):
    return sum(steps(4)), os.getpid()

@tracer.chain
class Service:
    def __init__(self, offset):
        self.offset = offset
    def method(self, x):
        return x + self.offset, os.getpid()
    def steps(self, x):
        yield x + self.offset
    @classmethod
    def of(cls, x):
        return cls(x).offset, os.getpid()

class Plain:
    @tracer.tool
    def method(self, x):
        return x + 1, os.getpid()
    @staticmethod
    @tracer.tool
    def static(x):
        return x, os.getpid()

@functools.lru_cache
def kept(x):
    return x, os.getpid()

cached = kept = tracer.tool(kept)
partial = tracer.tool("partial")(functools.partial(function, 5))
elsewhere = independent.tool(lambda x: x)

@independent.tool
def local(x):
    return x, os.getpid()
"""

USER = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import tracer
import working as w

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    t = tracer.init(propagate_threads=False)  # each process by itself: only what is called counts
    tasks = [
        (w.function, 1), (w.summed, w.generator), (w.summed, w.Service(2).steps), (w.local, 3),
        (w.Service(1).method, 3), (w.Service.of, 8), (w.Plain().method, 9), (w.Plain.static, 10),
        (w.cached, 11),
    ]
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = [pool.submit(*task).result(60) for task in tasks]
        found.append(pool.submit(w.partial).result(60))
    with context.Pool(1) as pool:
        found += pool.map(w.function, [12, 13])
        pool.close()
        pool.join()
    process = context.Process(target=w.function, args=(14,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert os.getpid() not in [pid for _, pid in found]
    print([number for number, _ in found])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_is_defined_in_a_module_runs_in_pools_and_processes(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "working.py").write_text(MODULE)
    file = tmp_path / "user.py"
    file.write_text(USER)
    launch = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-W", "ignore", *sys.argv[1:]]).returncode)
"""
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_API_KEY=KEY, HH_SPOOL_DIR=tmp_path / "spool")
        env["PYTHONPATH"] += f":{tmp_path}"
        ended = run(launch, file, method, env=env)
        assert (ended.code, ended.err) == (0, "")
        assert json.loads(ended.out) == [1, 4, 6, 3, 4, 8, 10, 10, 11, 5, 12, 13]
        after = "import tracer\nt = tracer.init()\nwith t.chain('next'): pass\n"
        assert run(after, env=env).code == 0  # a worker may have ended before it sent
        called = Counter(event["event_name"] for event in server.events.values())
    assert called == {
        "function": 1 + 1 + 2 + 1,
        "summed": 2,
        "generator": 1,
        "Service.steps": 1,
        "Service.method": 1,
        "Service.of": 1,
        "method": 1,
        "static": 1,
        "kept": 1,
        "partial": 1,
        "next": 1,
    }
