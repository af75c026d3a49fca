"""Between the fork and our own hook: what a user's earlier hook records stays with the child."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from programs import run

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
from tracer.segment import EVENT, UPDATE

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
