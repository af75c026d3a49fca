"""One stated form per type: written out here as it stands on the wire."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import ipaddress
import json
import mmap
import re
import socket
import sys
import threading
import types
import weakref
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypedDict
from unittest.mock import MagicMock
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tracer.encode import encode

HERE = __name__


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the walk: a busy machine must not cut what a test looks at."""
    monkeypatch.setattr("tracer.walk.monotonic", lambda: 0.0)


class Pair(NamedTuple):
    left: int
    right: Any


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Right(Flag):
    READ = 1
    WRITE = 2


class Label(str, Enum):
    NEW = "new"


class Options(TypedDict):
    k: int


@dataclass
class Point:
    x: int
    y: Any = None
    _hidden: int = 0
    token: str = field(default="secret", repr=False)


@dataclass
class Slotted:
    __slots__ = ("never_set", "x")
    x: int
    never_set: int


class Thing:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Holder:
    __slots__ = ("_private", "public", "unset")

    def __init__(self, public: Any) -> None:
        self.public = public
        self._private = 1


class Whole(int):
    pass


class Words(list[Any]):
    pass


class Zone(tzinfo):
    def utcoffset(self, moment: datetime | None, /) -> timedelta:
        raise ZeroDivisionError

    dst = tzname = utcoffset  # type: ignore[assignment]  # never called


class Folder(type(Path())):  # type: ignore[misc]  # the class of this platform
    pass


def generate() -> Iterator[int]:
    yield 1


async def wait() -> None:
    return None


def unknown(kind: str, shown: str, **attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"__type__": kind, "repr": shown}
    return {**found, "attributes": attributes} if attributes else found


def slotted() -> Slotted:
    made = Slotted.__new__(Slotted)
    made.x = 1
    return made


waiting = wait()
waiting.close()
THING = Thing()

FORMS: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (7, 7),
    (2**53 + 1, 9007199254740993),
    (-(2**63), -(2**63)),
    (2**64 - 1, 2**64 - 1),
    (2**64, "18446744073709551616"),
    (-(2**63) - 1, "-9223372036854775809"),
    (Whole(7), 7),
    (1.5, 1.5),
    (Decimal("1.50"), "1.50"),
    (Decimal("NaN"), "NaN"),
    (Fraction(3, 4), "3/4"),
    (1 + 2j, "(1+2j)"),
    ("è\0\u2028\U0001f600", "è\0\u2028\U0001f600"),
    ("a\ud800b", "a\\ud800b"),
    (b"abc", {"__type__": "builtins.bytes", "bytes": 3, "text": "abc"}),
    (b"\xff", {"__type__": "builtins.bytes", "bytes": 1, "base64": "/w=="}),
    (bytearray(b"ab"), {"__type__": "builtins.bytearray", "bytes": 2, "text": "ab"}),
    (memoryview(b"ab"), {"__type__": "builtins.memoryview", "bytes": 2, "text": "ab"}),
    ([1, [2]], [1, [2]]),
    (Words([1]), [1]),
    ((1, (2,)), [1, [2]]),
    (Pair(1, Pair(2, 3)), {"left": 1, "right": {"left": 2, "right": 3}}),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset("ba"), ["a", "b"]),
    (collections.deque([1, 2]), [1, 2]),
    (array("i", [1, 2]), [1, 2]),
    (range(3), unknown("builtins.range", "range(0, 3)")),
    (Options(k=1), {"k": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.values(), [1]),
    ({"a": 1}.items(), [["a", 1]]),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Right.READ | Right.WRITE, 3),
    (Label.NEW, "new"),
    (Point(1, [2]), {"x": 1, "y": [2]}),
    (slotted(), {"x": 1}),
    (datetime(2026, 1, 2, 3, 4, 5, 600, timezone.utc), "2026-01-02T03:04:05.000600+00:00"),
    (datetime(2026, 1, 2), "2026-01-02T00:00:00"),
    (datetime(2026, 7, 2, tzinfo=ZoneInfo("Europe/Berlin")), "2026-07-02T00:00:00+02:00"),
    (
        datetime(2026, 1, 2, tzinfo=Zone()),
        {"__type__": "datetime.datetime", "local": "2026-01-02T00:00:00", "zone": "<Zone object>"},
    ),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (time(3, 4, tzinfo=timezone.utc), "03:04:00+00:00"),
    (
        time(3, 4, tzinfo=Zone()),
        {"__type__": "datetime.time", "local": "03:04:00", "zone": "<Zone object>"},
    ),
    (timedelta(days=1, seconds=2), "P1DT2S"),
    (timedelta(microseconds=-5), "-P0DT0.000005S"),
    (timezone.utc, "UTC"),
    (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Path("/tmp/x"), "/tmp/x"),  # noqa: S108 - never opened
    (PurePosixPath("a"), "a"),
    (Folder("a"), unknown(f"{HERE}.Folder", "<Folder object>")),
    (ipaddress.ip_address("::1"), "::1"),
    (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (re.compile("a+"), unknown("re.Pattern", "re.compile('a+')")),
    (re.compile("a", re.IGNORECASE), unknown("re.Pattern", "re.compile('a', 34)")),
    (generate, unknown("builtins.function", f"<function {HERE}.generate>")),
    (len, unknown("builtins.builtin_function_or_method", "<built-in function len>")),
    (THING.__init__, unknown("builtins.method", f"<method Thing.__init__ of {HERE}.Thing>")),  # type: ignore[misc]  # of this instance
    (
        functools.partial(generate),
        unknown("functools.partial", f"<partial of <function {HERE}.generate>>"),
    ),
    (Thing, unknown("builtins.type", f"<class '{HERE}.Thing'>")),
    (Colour, unknown("enum.EnumType", f"<class '{HERE}.Colour'>")),
    (json, unknown("builtins.module", "<module json>")),
    (generate(), unknown("builtins.generator", "<generator generate>")),
    (waiting, unknown("builtins.coroutine", "<coroutine wait>")),
    (iter([1]), unknown("builtins.list_iterator", "<list_iterator object>")),
    (ValueError("no", 1), unknown("builtins.ValueError", "ValueError('no', 1)")),
    (KeyError(Thing(a=1)), unknown("builtins.KeyError", "KeyError(<Thing object>)")),
    (weakref.ref(THING), unknown("weakref.ReferenceType", f"<weakref to {HERE}.Thing>")),
    (threading.Lock(), unknown("_thread.lock", "<lock object>")),
    (threading.Thread(name="w"), unknown("threading.Thread", "<Thread 'w'>")),
    (io.StringIO("x"), unknown("_io.StringIO", "<StringIO object>")),
    (..., unknown("builtins.ellipsis", "Ellipsis")),
    (object(), unknown("builtins.object", "<object object>")),
    (
        Thing(a=1, _b=2, c=Thing(d=3)),
        unknown(
            f"{HERE}.Thing", "<Thing object>", a=1, c=unknown(f"{HERE}.Thing", "<Thing object>")
        ),
    ),
    (Holder([1]), unknown(f"{HERE}.Holder", "<Holder object>", public=[1])),
    (
        types.SimpleNamespace(a=1),
        unknown("types.SimpleNamespace", "<SimpleNamespace object>", a=1),
    ),
    (
        MagicMock(),
        unknown("unittest.mock.MagicMock", "<MagicMock object>", method_calls=[]),
    ),
]


@pytest.mark.parametrize(
    ("value", "expected"), FORMS, ids=[f"{n}-{type(v).__name__}" for n, (v, _) in enumerate(FORMS)]
)
def test_every_type_has_its_stated_form(value: Any, expected: Any) -> None:
    if sys.version_info < (3, 11) and isinstance(value, type(Enum)):
        expected = {**expected, "__type__": "enum.EnumMeta"}
    assert json.loads(encode(value)) == expected
    assert json.loads(encode({"a": [value]})) == {"a": [expected]}


@pytest.mark.parametrize(
    ("value", "name"), [("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")]
)
def test_a_float_that_is_no_number_is_named_on_the_first_level_and_beside_a_walk(
    value: str, name: str
) -> None:
    number = float(value)
    assert json.loads(encode(number)) == name
    assert json.loads(encode({"score": number})) == {"score": name}
    assert json.loads(encode([1.5] * 20 + [number]))[-1] == name
    assert json.loads(encode({"m": {"score": number, "by": THING}}))["m"]["score"] == name
    # deeper in what is plain JSON otherwise: as `JSON.stringify` has it, see `walk.fits`
    assert json.loads(encode({"m": {"score": number}})) == {"m": {"score": None}}


def test_minus_zero_keeps_its_sign() -> None:
    assert encode(-0.0) == b"-0.0"


def test_files_sockets_and_mapped_memory_show_their_name_and_size(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 5000)
    with contextlib.ExitStack() as stack:
        binary = stack.enter_context(path.open("rb"))
        text = stack.enter_context(path.open())
        mapped = stack.enter_context(mmap.mmap(binary.fileno(), 0, access=mmap.ACCESS_READ))
        talk = stack.enter_context(socket.socket())
        named = f"name={str(path)!r}>"
        assert json.loads(encode([binary, text, mapped, talk])) == [
            unknown("_io.BufferedReader", f"<BufferedReader {named}"),
            unknown("_io.TextIOWrapper", f"<TextIOWrapper {named}"),
            {"__type__": "mmap.mmap", "bytes": 5000},
            unknown("socket.socket", f"<socket fd={talk.fileno()}>"),
        ]
        mapped.close()
        closed = json.loads(encode({"mapped": mapped, "kept": 1}))
    assert closed["kept"] == 1
    assert closed["mapped"]["__type__"] == "mmap.mmap"
    assert "ValueError" in closed["mapped"]["repr"]


def test_a_traceback_shows_the_way_to_where_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        _ = 1 / 0
    frames = json.loads(encode(raised.tb))["frames"]
    assert frames[0].startswith(__file__)
    assert frames[0].endswith(
        f"in {test_a_traceback_shows_the_way_to_where_it_was_raised.__name__}"
    )


def test_content_of_bytes_is_kept_up_to_a_kibibyte_and_named_beyond() -> None:
    import hashlib

    assert json.loads(encode(b"x" * 1024))["text"] == "x" * 1024
    long = b"x" * 1025
    assert json.loads(encode(long)) == {
        "__type__": "builtins.bytes",
        "bytes": 1025,
        "sha256": hashlib.sha256(long).hexdigest(),
    }
    assert json.loads(encode(b"x" * (2 << 20))) == {
        "__type__": "builtins.bytes",
        "bytes": 2 << 20,
    }


def test_a_class_that_only_bears_a_known_name_is_an_unknown_one() -> None:
    for module, name in (("numpy", "ndarray"), ("decimal", "Decimal"), ("pathlib", "PosixPath")):
        spoofed = type(name, (), {"__module__": module, "__str__": lambda self: 1 / 0})
        assert json.loads(encode(spoofed())) == unknown(f"{module}.{name}", f"<{name} object>")


def test_at_most_twenty_attributes_of_an_unknown_object_are_shown() -> None:
    many = Thing(**{f"a{n}": n for n in range(30)})
    found = json.loads(encode(many))["attributes"]
    assert found.pop("__cut__") == {"members": 30, "kept": 20}
    assert found == {f"a{n}": n for n in range(20)}


def test_keys_that_are_no_text_have_a_form_and_lose_no_member() -> None:
    value = {
        1: "a",
        "1": "b",
        None: "c",
        (1, 2): "d",
        2.5: "e",
        b"x": "f",
        2**70: "g",
        Colour.RED: "h",
        date(2026, 1, 1): "i",
        float("nan"): "j",
        Thing(): "k",
        UUID(int=1): "l",
    }
    assert json.loads(encode(value)) == {
        "1": "a",
        "1 (str)": "b",
        "null": "c",
        "(1, 2)": "d",
        "2.5": "e",
        "x": "f",
        "1180591620717411303424": "g",
        "red": "h",
        "2026-01-01": "i",
        "NaN": "j",
        "<Thing object>": "k",
        "00000000-0000-0000-0000-000000000001": "l",
    }
