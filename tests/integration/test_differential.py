"""Tracing never changes the program: drawn programs run plain and traced, and are compared.

A case is a small program (`drawn_programs`), a consumer's script (`drivers`), a way to decorate
and one failure of ours, all decoded from drawn bytes. Everything the program and its consumer can
see is compared (`worlds`): values and exceptions by identity, with cause, context and the lines
of the traceback, states, ticks of the event loop, context variables, warnings, logs, what is
reported as unraisable, and when objects are freed. What is current is as it was after each step,
and the books are right.

The differences there are, and nothing else:
- a coroutine function called with wrong arguments says so when awaited, not when called;
- a coroutine that a plain function returns comes back in a proxy: equal in all it does, not the
  same object (generators, futures and everything else are);
- tracebacks hold frames of ours between the program's; `gi_code`, `gi_frame` and what else
  belongs to a frame are those of ours;
- what a call is given lives until the call is over, also if the callee lets go of it before; a
  task that a function returned lives one turn of the event loop longer, and so is reported later
  if nobody looks at its exception.
"""

from __future__ import annotations

import difflib
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any
from unittest import mock

import pytest
from drawn_programs import FLAVORS, SHAPES, YIELDS, Draw, Program, innermost_runs_inside
from drivers import Calls, drive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import Decorate, World

from tracer import event, recorder, streams
from tracer.clock import Clock
from tracer.context import CURRENT, Suppress
from tracer.decorators import SpanFactory
from tracer.errors import Guard
from tracer.event import shape_of
from tracer.frame import ENDS, EVENT, UPDATE
from tracer.recorder import Recorder
from tracer.sessions import SessionFactory
from tracer.tracer import Source, Tracer

CASES_AT_ONCE = 20  # what Hypothesis does for each example costs more than a case
EXAMPLES = 101  # 5 flavors * 20 * 101 = 10,100 cases
MANY_EXAMPLES = 1100  # 110,000

# -- ways to decorate: from the outermost to the innermost -------------------------------------

LAYERS: dict[str, tuple[str, ...]] = {
    "chain": ("chain",),
    "session": ("session",),
    "chain over session": ("chain", "session"),
    "session over chain": ("session", "chain"),
    "chain over chain": ("chain", "chain"),
}


class OursError(Exception):
    """A failure of ours, which no program may ever see."""


def fail(*_: Any, **__: Any) -> Any:
    raise OursError("ours")


def failing(work: Callable[..., Any], after: int) -> Callable[..., Any]:
    """Return `work` failing once it was done `after` times."""
    left = iter(range(after))

    def done(*args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs) if next(left, None) is not None else fail()

    return done


class Kept:
    """A buffer that keeps frames in a list."""

    def __init__(self) -> None:
        self.kinds: Counter[tuple[int, int]] = Counter()

    def write(self, kind: int, session: bytes, payload: bytes, flags: int = 0) -> bool:
        self.kinds[kind, flags] += 1
        return True


class Traced:
    """A world in which the program is decorated, and what was recorded in it."""

    def __init__(
        self, program: Program, way: str, fault: str, draw: Draw, closed: Recorder
    ) -> None:
        self.layers = LAYERS[way]
        self.fault, self._after = fault, draw.below(4)
        self.source = Source()
        self.kept = Kept()
        self.recorder = self._open_recorder(closed)
        self.source.recorder = None if fault == "off" else self.recorder
        self._consumer = draw.below(2) == 1
        looks = fault == "none" and innermost_runs_inside(
            program.flavor, program.shape, program.awaitable
        )
        chain = SpanFactory("chain", self.source)
        # blocks over a yield leave theirs current where the generator itself is not recorded
        leaves = program.flavor in YIELDS and program.blocks > 0
        self.world = World(
            self.source,
            self._decorate,
            chain,
            self.recorder if looks else None,
            looks_at_current=looks or not leaves,
            lifetimes=fault not in KEEPS_ITEMS,
        )

    def _open_recorder(self, closed: Recorder) -> Recorder:
        if self.fault == "shut down":
            return closed
        rate = 0.0 if self.fault == "sampled out" else 1.0
        guard = Guard(logging.getLogger("tracer"))
        kept: Any = self.kept
        return Recorder(kept, guard, source=None, session_name="default", sample_rate=rate)

    def _decorate(self, func: Any) -> Any:
        options: dict[str, Any] = {}
        if self.fault.startswith("process") or self.fault == "reduce":
            options[self.fault] = fail
        ways: dict[str, Decorate] = {
            "chain": SpanFactory("chain", self.source)("call", **options),
            "session": SessionFactory(self.source)("call"),
        }
        for layer in reversed(self.layers):
            func = ways[layer](func)
        return func

    def run(self, program: Program, script: Draw) -> Calls:
        target = self.world.target(program)  # decorated while all is well
        with self._failing():
            if self._consumer and self.fault == "none":
                CURRENT.set(self.recorder.begin(shape_of("chain", "consumer"), detached=True))
            return drive(self.world, program, target, script)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        ours, after = self.recorder, self._after
        with ExitStack() as stack:
            if self.fault == "suppressed":
                stack.enter_context(Suppress())
            elif self.fault == "encoder":
                for module, name in ENCODERS:
                    working = getattr(module, name)
                    stack.callback(setattr, module, name, working)
                    setattr(module, name, failing(working, after))
                encoder: Any = mock.Mock(cut=ours.encoder.cut)
                encoder.value = failing(ours.encoder.value, after)
                encoder.object = failing(ours.encoder.object, after)
                ours.encoder = encoder
            elif self.fault == "ids":
                ids: Any = mock.Mock()
                ids.new = failing(ours.ids.new, after)
                ours.ids = ids
            elif self.fault == "clock":
                ours.clock = Clock()
                ours.clock.wall_ns = failing(Clock.wall_ns, after)
                ours.clock.monotonic_ns = failing(Clock.monotonic_ns, after)
            elif self.fault == "buffer raises":
                ours.buffer.write = failing(ours.buffer.write, after)
            elif self.fault == "buffer refuses":
                ours.buffer.write = lambda *_, **__: False
            yield

    def check_books(self, program: Program, calls: Calls) -> None:
        """Count: one event for each started call and block, one end for each session."""
        if self.fault in ("off", "sampled out"):
            assert not self.kept.kinds
        if self.fault in (*CALM, "none"):
            assert self.recorder.guard.count == 0, "ours failed"
        # what ignores its close is dropped with its blocks open: Python never leaves them
        unclosed = any("ignored GeneratorExit" in line for line in self.world.seen)
        if self.fault != "none" or unclosed:
            return
        strange = program.shape == "over a foreign decorator"
        started = self.world.begun
        if program.flavor in ("function", "awaitable") or strange:
            started = calls.made
        elif program.flavor == "coroutine":
            started += calls.refused
        # the methods of a class that are ours already stay as they are
        layers = self.layers[-1:] if program.shape == "class" else self.layers
        expected = started * layers.count("chain") + self.world.opened
        assert self.kept.kinds[EVENT, 0] == expected, "events"
        expected = started * layers.count("session") + self.world.opened_sessions
        assert self.kept.kinds[UPDATE, ENDS] == expected, "ends of sessions"


ENCODERS = (
    (recorder, "encode"),
    (event, "encode"),
    (event, "encode_object"),
    (streams, "encode"),
)
KEEPS_ITEMS = (
    "reduce",
    "process_outputs",
)  # they are given everything that was yielded, at the end
CALM = ("off", "suppressed", "sampled out", "buffer refuses", "shut down")
FAULTS = (
    *["none"] * 12,
    "encoder",
    "ids",
    "clock",
    "buffer raises",
    "process_inputs",
    "process_outputs",
    "reduce",
    *CALM,
)


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage() -> Iterator[None]:
    """Leave what is there already out of every collection, and collect when told to."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.fixture(scope="module")
def shut_down() -> Tracer:
    tracer = Tracer(local=True, durable=False)
    tracer.shutdown(1.0)
    return tracer


def check(flavor: str, data: bytes, closed: Recorder) -> str:
    """Run one case in both worlds and compare; return the shape that was drawn."""
    draw = Draw(data)
    shape = draw.one_of(tuple(SHAPES))
    way = draw.one_of(tuple(LAYERS))
    fault = draw.one_of(FAULTS)
    at = draw.below(256), draw.below(256)
    script = data[4::3]  # read apart from the program: one may shrink without the other
    program = Program(Draw(data[5:]), flavor, shape)
    lifetimes = fault not in KEEPS_ITEMS
    plain = World(Source(), lifetimes=lifetimes)
    copy_context().run(drive, plain, program, plain.target(program), Draw(script))
    traced = Traced(program, way, fault, Draw(bytes(at)), closed)
    calls = copy_context().run(traced.run, program, Draw(script))
    try:
        assert compared(traced.world) == compared(plain)
        traced.check_books(program, calls)
    except AssertionError as error:
        difference = difflib.unified_diff(plain.seen, traced.world.seen, "plain", "traced", n=100)
        told = "\n".join((f"{flavor}, {shape}, {way}, {fault}", program.source, *difference))
        raise AssertionError(f"{told}\n{str(error)[:80]}") from None
    return shape


def compared(world: World) -> list[str]:
    """Return what a world saw before it dropped something that goes on when it is closed.

    Python reports that. Then the generator or coroutine inside ours is closed a second time. That
    nobody looked at a task's exception is reported when it is freed: when does not count.
    """
    seen = sorted(world.seen, key=lambda line: "exception was never retrieved" in line)
    for at, line in enumerate(seen):
        if "ignored GeneratorExit" in line and (
            line.startswith("unraisable") or "'coroutine ignored" in line
        ):
            steps = [n for n in range(at) if seen[n].startswith("  then")]
            return seen[: steps[-1]] if steps else []
    return seen


CASES = st.lists(
    st.binary(min_size=30, max_size=120), min_size=CASES_AT_ONCE, max_size=CASES_AT_ONCE
)
SETTINGS = settings(suppress_health_check=list(HealthCheck), print_blob=True)


counted: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _say_how_many(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the number of cases of each kind of callable, also while output is captured."""
    yield
    plugins: Any = request.config.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter = plugins.get_plugin("terminalreporter")
        reporter.write_line(f"\n{counted.total()} cases compared, plain and traced")
        for kind, number in sorted(counted.items()):
            reporter.write_line(f"{number:6} {kind}")
    if request.session.testsfailed:
        return
    whole = {kind.partition(" (")[0] for kind in counted}
    assert counted.total() >= CASES_AT_ONCE * (EXAMPLES - 1) * len(whole)


def check_all(flavor: str, cases: list[bytes], closed: Recorder) -> None:
    for data in cases:
        counted[f"{flavor} ({check(flavor, data, closed)})"] += 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("flavor", FLAVORS)
@settings(SETTINGS, max_examples=EXAMPLES, derandomize=True)  # the same cases in every run
@given(cases=CASES)
def test_tracing_never_changes_the_program(
    flavor: str, cases: list[bytes], shut_down: Tracer
) -> None:
    check_all(flavor, cases, shut_down._recorder)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("flavor", FLAVORS)
@settings(SETTINGS, max_examples=MANY_EXAMPLES)  # others in every run
@given(cases=CASES)
def test_tracing_never_changes_any_other_program(
    flavor: str, cases: list[bytes], shut_down: Tracer
) -> None:
    check_all(flavor, cases, shut_down._recorder)
