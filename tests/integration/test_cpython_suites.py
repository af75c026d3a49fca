"""CPython's own tests of generators and coroutines pass as before when everything is decorated.

They know every promise of these objects: better than we do, and in the version that runs.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import environment

PROGRAM = Path(__file__).with_name("cpython_decorated.py")
SECONDS = 100  # a run takes about three

# Module -> functions that are decorated at least; fewer would mean that we decorate no longer.
FLOORS = {
    "test.test_generators": 140,
    "test.test_coroutines": 215,
    "test.test_asyncgen": 160,
    "test.test_contextlib_async": 50,
}

FRAMES = "looks at the frames of a stack or traceback: ours are among them"
INSIDE = "looks through a suspended object at what it waits for: our own is in between"
ORIGIN = "looks at the line a coroutine was created on: the inner one's is ours"

# All that differs, and cannot but differ; one that passes decorated fails the test.
KNOWN = {
    "test.test_generators.GeneratorStackTraceTest.test_send_with_yield_from": FRAMES,
    "test.test_generators.GeneratorStackTraceTest.test_throw_with_yield_from": FRAMES,
    "test.test_generators.YieldFromTests.test_generator_gi_yieldfrom": INSIDE,
    "test.test_generators.__test__.email: type(g) #1": "a proxy, whose __class__ is the function's",
    "test.test_generators.__test__.syntax: g.gi_code is f.__code__ #1": INSIDE,
    "test.test_generators.__test__.syntax: g.gi_code is f.__code__ #2": INSIDE,
    "test.test_coroutines.CoroutineTest.test_await_12": (
        "a wrong __await__ gives a coroutine: what follows that is an iterator, and accepted"
    ),
    "test.test_coroutines.CoroutineTest.test_cr_await": INSIDE,
    "test.test_coroutines.OriginTrackingTest.test_origin_tracking": ORIGIN,
    "test.test_coroutines.OriginTrackingTest.test_origin_tracking_warning": ORIGIN,
    "test.test_contextlib_async.TestAsyncExitStack.test_exit_exception_traceback": FRAMES,
}


def comes_with_python(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package
        return False


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Return what a run prints: the answer, and what went to stderr."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer, err


@pytest.mark.parametrize("module", FLOORS)
def test_the_interpreters_own_tests_end_as_they_do_undecorated(module: str, tmp_path: Path) -> None:
    if not comes_with_python(module):
        pytest.skip(f"this interpreter comes without {module}")
    with start(module) as first, start(module, tmp_path) as second:
        (plain, said), (traced, said_traced) = ended(first), ended(second)

    expected, found, told = plain["outcomes"], traced["outcomes"], traced["told"]
    assert expected.keys() == found.keys()
    differing = {test for test in expected if expected[test] != found[test]}
    known = KNOWN.keys() & expected.keys()
    print(  # noqa: T201 - for `pytest -s`
        f"\n{module}: {len(found)} outcomes, {len(differing)} differ; {traced['functions']} "
        f"functions decorated, {traced['decorated']} times; {traced['written']} events written"
    )
    assert {test: told.get(test) for test in differing - known} == {}, "these differ now"
    assert known - differing == set(), "these pass by now: take them out"
    assert said_traced == said
    assert traced["functions"] >= FLOORS[module]
    assert traced["written"] == traced["recorded"] > traced["functions"]
    assert traced["failures"] == 0
