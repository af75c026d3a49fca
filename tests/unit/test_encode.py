"""Any value becomes JSON at call time; none raises, none is lost without a word."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from threading import Event, Thread
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import run

from tracer.encode import MAX_NODES, REPR_LENGTH, encode, encode_object

Pair = namedtuple("Pair", "left right")


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: Any = None
    _hidden: int = field(default=0)


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


class Broken:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def decoded(value: object) -> Any:
    return json.loads(encode(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (1.5, 1.5),
        (float("nan"), None),
        (float("inf"), None),
        ("è\0\u2028\U0001f600", "è\0\u2028\U0001f600"),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 600, timezone.utc), "2026-01-02T03:04:05.000600+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (Colour.RED, "red"),
        (Point(1, [2]), {"x": 1, "y": [2]}),
        ([Point(1, Point(2))], [{"x": 1, "y": {"x": 2, "y": None}}]),
    ],
)
def test_what_has_a_json_form_takes_it(value: object, expected: object) -> None:
    assert decoded(value) == expected


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (Opaque(), "Opaque", "<opaque>"),
        (Opaque, "type", "<class"),
        ({1}, "set", "{1}"),
        (b"\xff", "bytes", "b'\\xff'"),
        (Decimal("1.50"), "Decimal", "Decimal('1.50')"),
        (1 + 2j, "complex", "(1+2j)"),
        (Pair(1, 2), "Pair", "Pair(left=1, right=2)"),
        (2**64, "int", "18446744073709551616"),
        (ValueError("no"), "ValueError", "ValueError('no')"),
        (len, "builtin_function_or_method", "<built-in function len>"),
    ],
)
def test_an_unknown_object_becomes_its_type_and_its_repr(
    value: object, kind: str, shown: str
) -> None:
    found = decoded(value)
    assert list(found) == ["__type__", "repr"]
    assert found["__type__"].endswith(f".{kind}")
    assert found["repr"].startswith(shown)
    assert decoded({"a": [value]})["a"][0] == found


class Chatty:
    def __repr__(self) -> str:
        return "x" * 10**6


@pytest.mark.parametrize(
    "value", [Chatty(), b"x" * 10**6, {"y" * 10**6}, Pair("z" * 10**6, [[[[[[1]]]]]]), 10**4000]
)
def test_the_repr_of_an_unknown_object_is_bounded(value: object) -> None:
    assert len(decoded(value)["repr"]) <= 2 * REPR_LENGTH


def test_a_repr_that_raises_costs_only_itself() -> None:
    found = decoded({"good": 1, "bad": Broken(), "kept": Opaque()})
    assert found["good"] == 1
    assert found["bad"]["__type__"].endswith(".Broken")
    assert "Broken" in found["bad"]["repr"] or "ZeroDivisionError" in found["bad"]["repr"]
    assert found["kept"]["repr"] == "<opaque>"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_a_repr_reaches_the_caller(error: type[BaseException]) -> None:
    class Interrupted:
        def __repr__(self) -> str:
            raise error

    with pytest.raises(error):
        encode({"a": [Interrupted()]})


def test_a_cycle_ends_where_it_closes() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = decoded({"loop": loop, "kept": "yes"})
    assert found["kept"] == "yes"
    assert found["loop"][0] == 1
    assert found["loop"][1]["__type__"] == "builtins.list"
    mapping: dict[str, Any] = {"a": 1}
    mapping["me"] = mapping
    assert decoded(mapping)["me"]["__type__"] == "builtins.dict"


def test_a_value_met_twice_is_no_cycle() -> None:
    shared = [Opaque()]
    found = decoded([shared, shared])
    assert found[0] == found[1]
    assert found[0][0]["repr"] == "<opaque>"


def test_a_value_deeper_than_any_limit_is_cut() -> None:
    deep: Any = "bottom"
    for _ in range(10_000):
        deep = [deep]
    text = encode({"deep": deep, "kept": 1})
    assert json.loads(text)["kept"] == 1
    assert len(text) < 10_000


def test_shared_values_that_unfold_without_end_are_cut() -> None:
    wide: Any = [Opaque()]
    for _ in range(64):
        wide = [wide, wide]
    assert len(encode(wide)) < 100 * MAX_NODES


def test_what_is_left_out_of_a_long_walk_is_counted() -> None:
    found = decoded([Opaque()] * (MAX_NODES + 50))
    assert len(found) <= MAX_NODES + 1
    assert found[-1] == f"… {MAX_NODES + 50 - (len(found) - 1)} more"
    named = decoded({str(n): Opaque() for n in range(MAX_NODES + 50)})
    assert named["…"] == f"{MAX_NODES + 50 - (len(named) - 1)} more"


def test_one_unknown_object_does_not_cut_what_lies_beside_it() -> None:
    found = decoded({"vector": list(range(5 * MAX_NODES)), "model": Opaque()})
    assert found["vector"] == list(range(5 * MAX_NODES))


def test_lone_surrogates_cost_only_their_own_text() -> None:
    found = decoded({"ok": "é", "bad": "a\ud800b", "\udfff": 1})
    assert found == {"ok": "é", "bad": "a\\ud800b", "\\udfff": 1}


def test_integers_beyond_every_limit_are_shown() -> None:
    found = decoded({"big": 10**5000, "small": 7})
    assert found["small"] == 7
    assert found["big"]["__type__"] == "builtins.int"
    assert found["big"]["repr"].startswith("0x")


def test_keys_that_are_no_text_lose_no_member() -> None:
    found = decoded({1: "a", "1": "b", None: "c", (1, 2): "d", 2.5: "e", b"x": "f", 2**70: "g"})
    assert sorted(found.values()) == list("abcdefg")
    assert found["1"] == "a"
    assert found["null"] == "c"
    assert found["(1, 2)"] == "d"


def test_a_text_of_a_subclass_stays_text() -> None:
    class Label(str):
        __slots__ = ()

    assert decoded({Label("k"): Label("v"), "s": Label("\ud800")}) == {"k": "v", "s": "\\ud800"}


def test_what_claims_to_be_something_else_is_judged_by_its_type() -> None:
    found = decoded({"mock": MagicMock(spec=dict), "kept": 1})
    assert found["kept"] == 1
    assert found["mock"]["__type__"] == "unittest.mock.MagicMock"


def test_a_property_that_raises_costs_only_its_owner() -> None:
    @dataclass
    class Lazy:
        value: int

        def __getattribute__(self, name: str) -> Any:
            if name == "value":
                raise RuntimeError("no connection")
            return super().__getattribute__(name)

    class Liar:
        @property  # type: ignore[misc]  # what a proxy without target does
        def __class__(self) -> Any:
            raise RuntimeError("no target")

    found = decoded({"lazy": Lazy(1), "liar": Liar(), "kept": 1})
    assert found["kept"] == 1
    assert found["lazy"]["__type__"].endswith("Lazy")
    assert found["liar"]["__type__"].endswith("Liar")


HOSTILE = """
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from tracer.encode import encode

@dataclass
class Slotted:
    __slots__ = ("never_set",)
    never_set: int

class Nowhere(tzinfo):
    def utcoffset(self, moment):
        raise ValueError("no zone")

class Emptier:
    def __init__(self, container):
        self.container = container
    def __repr__(self):
        self.container.clear()
        [object() for _ in range(100_000)]
        return "emptied"

items = []
items.extend([Emptier(items), *[[str(n), {"n": n}] for n in range(10_000)]])
members = {}
members.update({"first": Emptier(members)}, **{str(n): [str(n)] for n in range(10_000)})
for value in (Slotted.__new__(Slotted), datetime(2026, 1, 1, tzinfo=Nowhere()), items, members):
    for nested in (value, [value], {"a": value}):
        encode(nested)
print("alive")
"""


def test_no_value_ends_the_process() -> None:
    # each of these makes orjson read freed memory, or a null, when it meets them by itself
    done = run(HOSTILE)
    assert (done.code, done.out) == (0, "alive\n"), done.err


def test_another_thread_may_change_the_value_meanwhile() -> None:
    class Slow:
        def __repr__(self) -> str:
            return "".join(str(n) for n in range(20))

    shared: list[Any] = [Slow() for _ in range(300)]
    named: dict[str, Any] = {str(n): Slow() for n in range(300)}
    done = Event()

    def change() -> None:
        while not done.is_set():
            del shared[1:]
            shared.extend(Slow() for _ in range(300))
            named.clear()
            named.update({str(n): Slow() for n in range(300)})

    thread = Thread(target=change)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(100):
            assert isinstance(decoded({"shared": shared, "named": named}), dict)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)


def test_encoding_at_the_recursion_limit_never_raises() -> None:
    def deeper() -> None:
        results.append(encode({"a": Opaque()}))
        deeper()

    results: list[bytes] = []
    with pytest.raises(RecursionError):
        deeper()
    assert all(isinstance(json.loads(text), dict) for text in results)
    assert json.loads(results[0]) == {"a": {"__type__": f"{__name__}.Opaque", "repr": "<opaque>"}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        ({}, {}),
        (None, {"result": None}),
        ([1], {"result": [1]}),
        ("text", {"result": "text"}),
        (Point(1), {"x": 1, "y": None}),
    ],
)
def test_an_object_is_what_the_wire_asks_for(value: object, expected: object) -> None:
    assert json.loads(encode_object(value)) == expected


def test_a_stand_in_is_wrapped_as_a_result() -> None:
    assert json.loads(encode_object(Opaque()))["result"]["repr"] == "<opaque>"


def test_the_value_is_taken_at_the_time_of_the_call() -> None:
    value: dict[str, Any] = {"a": [1], "b": Opaque()}
    text = encode(value)
    value["a"].append(2)
    assert json.loads(text)["a"] == [1]


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
