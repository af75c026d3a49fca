"""Between the fork and our own hook: what a user's earlier hook records stays with the child."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fakes import ContractServer
from programs import environment, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PROGRAM = """
import json, os, sys
from contextlib import ExitStack

kept = {}

def early():  # registered before ours, so it runs in the child before ours does
    if "tracer" in kept:
        kept["use"]()

os.register_at_fork(after_in_child=early)

from tracer import Tracer
from tracer.frame import EVENT, UPDATE

directory, way = sys.argv[1:]
tracer = kept["tracer"] = Tracer(local=True, spool_dir=directory)

def names():
    frames = tracer._buffer.read(1 << 30, 1 << 40)
    found = [json.loads(f.payload)["event_name"] for f in frames if f.kind == EVENT]
    return found + ["update" for f in frames if f.kind == UPDATE]

with tracer.chain("before"):
    pass
stack = ExitStack()
session = stack.enter_context(tracer.session("s"))
stack.enter_context(tracer.chain("open"))
kept["use"] = {
    "begin": lambda: tracer.tool(lambda: None).__wrapped__ and tracer.log_event("tool", "child"),
    "end": stack.pop_all().close if way == "end" else None,
    "update": lambda: tracer.enrich_session(metadata={"a": 1}),
}[way]
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(write, json.dumps(names()).encode())
    os._exit(0)
os.waitpid(pid, 0)
kept.clear()
with tracer.chain("after"):
    pass
print(json.dumps({"parent": names(), "child": json.loads(os.read(read, 1 << 16))}), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("way", "child"), [("begin", ["child"]), ("end", []), ("update", ["update"])]
)
def test_what_an_earlier_hook_does_in_the_child_never_lands_in_the_parents_segment(
    tmp_path: Path, way: str, child: list[str]
) -> None:
    done = run(PROGRAM, tmp_path, way)
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"parent": ["before", "after"], "child": child}


# The hook records before the parent ever did: in the child no thread is there yet.
FIRST_IN_THE_CHILD = """
import os, sys, threading

def early():
    with t.chain("hook"):
        pass
    asked.append(t.flush(1).reason)

asked = []
os.register_at_fork(after_in_child=early)

import tracer
t = tracer.init()
pid = os.fork()
if pid == 0:
    alive = [thread.name for thread in threading.enumerate()]
    done = t.shutdown(10)
    print(alive.count("tracer-flusher"), done.ok, done.delivered, *asked, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
def test_an_earlier_hook_that_records_first_leaves_one_thread_in_the_child(
    tmp_path: Path, durable: str
) -> None:
    with ContractServer() as server:
        env = environment(
            HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool", HH_DURABLE=durable
        )
        done = run(FIRST_IN_THE_CHILD, env=env)
        assert done.err == ""
        assert done.out == "1 True 1 the process was forked just now: nothing is sent yet\n"
        assert len(server.events) == 1
