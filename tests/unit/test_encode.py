"""Any value becomes JSON at call time; none raises, none runs code, none is lost without a word."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from itertools import count
from threading import Event, Thread
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import run

from tracer.encode import Encoder, encode, encode_object
from tracer.walk import HEAD, MAX_DEPTH, MAX_NODES


@dataclass
class Point:
    x: int
    y: Any = None
    _hidden: int = field(default=0)


class Opaque:
    pass


class Broken:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the walk: a busy machine must not cut what a test looks at."""
    monkeypatch.setattr("tracer.walk.monotonic", lambda: 0.0)


OPAQUE = {"__type__": f"{__name__}.Opaque", "repr": "<Opaque object>"}


def decoded(value: object) -> Any:
    return json.loads(encode(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ({}, {}),
        ({"__type__": "mine"}, {"__type__": "mine"}),
        (None, {"result": None}),
        ([1], {"result": [1]}),
        ("text", {"result": "text"}),
        (Point(1), {"x": 1, "y": None}),
        (Opaque(), {"result": OPAQUE}),
        (b"a", {"result": {"__type__": "builtins.bytes", "bytes": 1, "text": "a"}}),
        ({"a": {1}}, {"a": [1]}),
        (dict.fromkeys(map(str, range(40)), 0.5), dict.fromkeys(map(str, range(40)), 0.5)),
    ],
)
def test_an_object_is_what_the_wire_asks_for(value: object, expected: object) -> None:
    assert json.loads(encode_object(value)) == expected
    assert json.loads(Encoder().object(value)) == expected


def test_one_unknown_object_does_not_cut_what_lies_beside_it() -> None:
    found = decoded({"vector": list(range(5 * MAX_NODES)), "model": Opaque()})
    assert found["vector"] == list(range(5 * MAX_NODES))
    records = [{"id": n, "text": "t"} for n in range(MAX_NODES)]
    assert decoded({"records": records, "model": Opaque()})["records"] == records


def test_a_cycle_ends_where_it_closes() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = decoded({"loop": loop, "kept": "yes"})
    assert found["kept"] == "yes"
    assert found["loop"] == [1, {"__type__": "builtins.list", "__cut__": {"reason": "cycle"}}]
    mapping: dict[str, Any] = {"a": 1}
    mapping["me"] = mapping
    assert decoded(mapping)["me"]["__type__"] == "builtins.dict"
    thing = Opaque()
    thing.__dict__["me"] = [thing]
    assert decoded(thing)["attributes"]["me"][0]["__type__"] == f"{__name__}.Opaque"


def test_a_value_met_twice_is_no_cycle() -> None:
    shared = [Opaque()]
    assert decoded([shared, shared]) == [[OPAQUE], [OPAQUE]]


def test_shared_values_that_unfold_without_end_are_cut() -> None:
    for leaf in (Opaque(), 1, "text"):
        wide: Any = [leaf]
        for _ in range(64):
            wide = [wide, wide]
        encoder = Encoder()
        assert len(encoder.value(wide)) < 100 * MAX_NODES
        assert encoder.truncated == 1


def test_what_is_left_out_of_a_long_walk_is_counted() -> None:
    encoder = Encoder()
    found = json.loads(encoder.value([Opaque()] * (MAX_NODES + 50)))
    kept = len(found) - 1
    assert kept == HEAD  # of what cannot be shown whole
    assert found[-1] == {"__cut__": {"items": MAX_NODES + 50, "kept": kept}}
    named = json.loads(encoder.value({str(n): Opaque() for n in range(MAX_NODES + 50)}))
    assert named.pop("__cut__") == {"members": MAX_NODES + 50, "kept": len(named)}
    assert encoder.truncated == 2


def test_a_value_above_the_bound_is_cut_and_counted_once() -> None:
    encoder = Encoder(max_bytes=10_000)
    for value in (
        {"text": "x" * 20_000, "k": 1},
        {"deep": {"text": "é" * 9_000}, "k": 1},
        {"deep": {"text": "é" * 9_000}, "k": 1, "by": Opaque()},
        {"list": ["some text"] * 2_000, "k": 1},
        {"list": [{"n": n} for n in range(2_000)], "k": 1},
    ):
        before = encoder.truncated
        encoded = encoder.object(value)
        assert len(encoded) <= 10_000
        found = json.loads(encoded)
        assert found["k"] == 1
        assert b'"__cut__":{' in encoded
        assert encoder.truncated == before + 1
    encoder.object({"k": 1})
    encoder.value({"by": Opaque()})
    assert encoder.truncated == 5


def test_cutting_what_is_written_is_counted_where_it_cuts() -> None:
    encoder = Encoder()
    assert encoder.cut(b'{"a":1}', 100) == b'{"a":1}'
    assert encoder.truncated == 0
    assert len(encoder.cut(encode({"a": "x" * 1000}), 500)) <= 500
    assert encoder.truncated == 1


def test_the_deepest_level_is_named() -> None:
    deep: Any = {"by": Opaque()}
    for _ in range(MAX_DEPTH):
        deep = [deep]
    found = decoded(deep)
    while isinstance(found, list):
        found = found[0]
    assert found == {"__type__": "builtins.dict", "__cut__": {"reason": "depth"}}


def test_a_text_of_a_subclass_stays_text() -> None:
    class Label(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise ZeroDivisionError

    assert decoded({Label("k"): Label("v"), "s": Label("\ud800")}) == {"k": "v", "s": "\\ud800"}


def test_a_long_key_is_cut_and_hides_no_other() -> None:
    found = decoded({"k" * 5000 + "a": 1, "k" * 5000 + "b": 2, "by": Opaque()})
    assert sorted(v for v in found.values() if isinstance(v, int)) == [1, 2]
    assert max(map(len, found)) < 1100


HOSTILE = """
import enum, sys, threading
from dataclasses import dataclass
from datetime import datetime, tzinfo
from tracer.encode import encode

@dataclass
class Slotted:
    __slots__ = ("never_set",)
    never_set: int

class Nowhere(tzinfo):
    def utcoffset(self, moment):
        raise ValueError("no zone")

class Colour(enum.Enum):
    RED = "red"
    @property
    def value(self):
        raise ValueError("no value")

class Level(enum.Enum):
    HIGH = "high"

for value in (Slotted.__new__(Slotted), datetime(2026, 1, 1, tzinfo=Nowhere()), Colour.RED):
    for nested in (value, [value], (value,), {"a": value}, {"a": [{"b": value}]}, [[[value] * 20]]):
        assert encode(nested)
assert encode([Colour.RED, {Colour.RED: 1}]) == b'["red",{"red":1}]'

items = [[Level.HIGH, "x%d" % n] for n in range(300)]
done = threading.Event()

def change():
    while not done.is_set():
        del items[1:]
        items.extend([Level.HIGH, "x%d" % n] for n in range(300))

sys.setswitchinterval(1e-6)
thread = threading.Thread(target=change)
thread.start()
for _ in range(300):
    encode({"a": items})
done.set()
thread.join()
print("alive")
"""


def test_no_value_ends_the_process() -> None:
    # each of these makes orjson read freed memory, or a null, when it meets them by itself
    done = run(HOSTILE)
    assert (done.code, done.out) == (0, "alive\n"), done.err


def test_another_thread_may_change_the_value_meanwhile() -> None:
    shared: list[Any] = [Opaque() for _ in range(300)]
    named: dict[str, Any] = {str(n): Opaque() for n in range(300)}
    done = Event()

    def change() -> None:
        while not done.is_set():
            del shared[1:]
            shared.extend(Opaque() for _ in range(300))
            named.clear()
            named.update({str(n): Opaque() for n in range(300)})

    thread = Thread(target=change)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(100):
            for value in (shared, named, {"a": [shared, named]}):
                assert b"encoding raised" not in encode(value)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)


def test_a_change_between_any_two_steps_is_no_error() -> None:
    line, few, names = deque(range(6)), set(range(6)), dict.fromkeys("abcdef")
    items, thing = [Opaque() for _ in range(6)], Opaque()
    thing.__dict__.update(names)
    steps = count()

    def change(frame: FrameType, event: str, _: object) -> None:
        if event == "c_return":  # where another thread could have its turn
            n = next(steps)
            line.rotate()
            line.append(n)
            line.popleft()
            few.symmetric_difference_update((n % 5 + 1, n))
            for members in (names, thing.__dict__):
                members[f"k{n}"] = members.pop(next(iter(members)))
            items.append(items.pop(0))
            items.extend((Opaque(),) if n % 2 else ())

    for value in (line, few, names, items, thing, {"a": [line, few, names, items, thing]}):
        sys.setprofile(change)
        try:
            encoded = encode(value)
        finally:
            sys.setprofile(None)
        assert b"while it was described" not in encoded
        assert b"encoding raised" not in encoded
        assert len(encoded) > 10


def test_encoding_at_the_recursion_limit_never_raises() -> None:
    def deeper() -> None:
        results.append(encode({"a": Opaque()}))
        deeper()

    results: list[bytes] = []
    with pytest.raises(RecursionError):
        deeper()
    assert all(isinstance(json.loads(text), dict) for text in results)
    assert json.loads(results[0]) == {"a": OPAQUE}


def test_the_value_is_taken_at_the_time_of_the_call() -> None:
    value: dict[str, Any] = {"a": [1], "b": Opaque()}
    text = encode(value)
    value["a"].append(2)
    assert json.loads(text)["a"] == [1]


def test_an_iterator_keeps_all_it_has() -> None:
    def count() -> Iterator[int]:
        yield from range(3)

    values = [count(), iter([0, 1, 2]), map(int, "012"), zip(range(3), strict=True)]
    encode(values)
    assert [len(list(v)) for v in values] == [3, 3, 3, 3]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)
any_values = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals()
    | st.fractions()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.complex_numbers()
    | st.builds(Opaque)
    | st.builds(Broken)
    | st.builds(Point, st.integers(), st.binary())
    | st.just(timezone(timedelta(hours=1)))
    | st.just(Opaque),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(st.characters()) | st.integers() | st.binary() | st.none() | st.floats(), inner
        )
        | st.frozensets(st.integers() | st.binary())
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_values_come_back_as_they_went(value: Any) -> None:
    assert decoded(value) == value


@given(any_values)
def test_every_value_becomes_valid_json(value: Any) -> None:
    def no_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(members)) == len(members)
        return dict(members)

    encoded = json.loads(encode(value).decode(), object_pairs_hook=no_doubles)
    if type(value) is dict:
        assert len(encoded) == len(value)
    assert isinstance(json.loads(encode_object(value)), dict)
