"""The two headers as text: what goes out is always legal, what comes in is never trusted."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.w3c import MAX_BAGGAGE, MAX_MEMBERS, Origin, origin_of, parse_traceparent, write

SESSION = "0af76519-16cd-43dd-8448-eb211c80319c"
EVENT = "6a1f0c3e-94b1-4c2d-b7ad-6b7169203331"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORIGIN = Origin(SESSION, "chat 42", EVENT, sampled=True)

VISIBLE = re.compile(r"[\x21-\x7e]+")
# https://www.w3.org/TR/baggage/#baggage-string: what a value may hold
MEMBER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+=[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")

NAUGHTY = [
    "",
    " ",
    "a\r\nX-Injected: 1",
    "a\nSet-Cookie: b=c",
    "\r\n\r\n<html>",
    "a\x00b",
    "".join(map(chr, range(32))) + "\x7f\x80\x85\xa0",
    'x",y;z\\=%',
    "hh-session-id=00000000-0000-4000-8000-000000000000,hh-parent-id=x",
    "%0d%0aX: y",
    "%",
    "%%%zz",
    "Zażółć gęślą jaźń",
    "田中さんにあげて下さい",
    "🤷🏽‍♂️" * 400,
    "\u202etest\u202c \u2028 \u2029 \ufeff",
    "\ud800 lone \udfff",
    "../../etc/passwd",
    "{{7*7}} ${jndi:ldap://x} <script>alert(1)</script>",
    "x" * 100_000,
    "," * 5000,
]


def written(before: dict[str, str] | None = None, origin: Origin = ORIGIN) -> dict[str, str]:
    carrier = dict(before or {})
    write(carrier, origin)
    return carrier


def test_what_is_written_is_read_again() -> None:
    carrier = written()
    assert carrier == {
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        "baggage": f"hh-session-id={SESSION},hh-parent-id={EVENT},hh-session-name=chat%2042",
    }
    assert origin_of(carrier) == ORIGIN


def test_a_session_alone_names_no_parent_and_lends_the_trace_its_own_id() -> None:
    origin = Origin(SESSION, "chat", None, sampled=False)
    carrier = written(origin=origin)
    assert carrier["traceparent"] == f"00-{TRACE}-8448eb211c80319c-00"
    assert origin_of(carrier) == origin


def test_a_session_of_zeros_has_no_traceparent() -> None:
    zeros = Origin("00000000-0000-0000-0000-000000000000", "zeros", None, sampled=None)
    carrier = written(origin=zeros)
    assert list(carrier) == ["baggage"]
    assert origin_of(carrier) == zeros


VALID = {
    f"00-{TRACE}-{SPAN}-01": True,
    f"00-{TRACE}-{SPAN}-00": False,
    f"00-{TRACE}-{SPAN}-03": True,  # the other flags are not ours to understand
    f"00-{TRACE}-{SPAN}-fe": False,
    f"01-{TRACE}-{SPAN}-01": True,
    f"cc-{TRACE}-{SPAN}-01-what-will-be": True,
    f"cc-{TRACE}-{SPAN}-00-": False,
}
INVALID = [
    "",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}-001",
    f"00-{TRACE}-{SPAN}-01-",
    f"00-{TRACE}-{SPAN}-01-more",
    f"cc-{TRACE}-{SPAN}-01.more",
    f"cc-{TRACE}-{SPAN}-01-\nX: y",
    f"ff-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN.upper()}-01",
    f"0A-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-0A",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}0-{SPAN}-01",
    f"00-{TRACE}-{SPAN[1:]}-01",
    f"00_{TRACE}_{SPAN}_01",
    f" 00-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01\n",
    f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
    f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-\u0660\u0661",
]


@pytest.mark.parametrize("value", VALID)
def test_a_valid_traceparent_is_understood(value: str) -> None:
    assert parse_traceparent(value) == (TRACE, SPAN, VALID[value])


@pytest.mark.parametrize("value", INVALID)
def test_an_invalid_traceparent_is_none(value: str) -> None:
    assert parse_traceparent(value) is None
    found = origin_of({"traceparent": value, "baggage": f"hh-session-id={SESSION}"})
    assert found == Origin(SESSION, None, None, None)


# -- merging -------------------------------------------------------------------------------------


def test_members_of_others_stay_as_they_are_and_ours_are_replaced() -> None:
    theirs = "userId=Am%C3%A9lie, isProduction = false;p=1 ;q"
    old = f"hh-session-id={EVENT} , hh-parent-id={EVENT},hh-session-name=old"
    carrier = written({"baggage": f"{theirs},{old},,last=1"})
    assert carrier["baggage"] == (
        "userId=Am%C3%A9lie,isProduction = false;p=1 ;q,last=1,"
        f"hh-session-id={SESSION},hh-parent-id={EVENT},hh-session-name=chat%2042"
    )
    assert written(carrier) == carrier


def test_the_names_a_carrier_has_are_used() -> None:
    carrier = written({"Baggage": "a=1", "TraceParent": "broken", "X": "y"})
    assert list(carrier) == ["Baggage", "TraceParent", "X"]
    assert carrier["TraceParent"] == f"00-{TRACE}-{SPAN}-01"
    assert origin_of(carrier) == ORIGIN


def test_the_trace_of_somebody_else_stays_whole() -> None:
    theirs = {"traceparent": f"00-{'a' * 32}-{SPAN}-00", "tracestate": "congo=t61rcWkgMzE"}
    carrier = written(theirs)
    assert theirs.items() <= carrier.items()
    # their flag is about their trace: nobody said anything about our session
    assert origin_of(carrier) == ORIGIN._replace(sampled=None)


def test_a_traceparent_of_ours_is_replaced_by_the_next() -> None:
    first = written()
    other = Origin(EVENT, "another", SESSION, sampled=False)
    assert written(first, other) == written(origin=other)
    deeper = ORIGIN._replace(parent_id=SESSION)
    assert written(first, deeper) == written(origin=deeper)


@pytest.mark.parametrize("count", [0, 1, 60, 61, 62, 63, 64, 100])
def test_no_more_members_than_everyone_passes_on(count: int) -> None:
    theirs = [f"m{n}=1" for n in range(count)]
    members = written({"baggage": ",".join(theirs)})["baggage"].split(",")
    assert members[:count] == theirs
    assert len(members) <= max(MAX_MEMBERS, count)
    assert len(members) - count == (3 if count < 62 else 2 if count == 62 else 0)


@pytest.mark.parametrize("size", [0, 8000, 8090, 8105, 8150, 8192, 9000])
def test_no_more_bytes_than_everyone_passes_on(size: int) -> None:
    theirs = "m=" + "x" * (size - 2) if size else ""
    baggage = written({"baggage": theirs})["baggage"]
    assert len(baggage) <= max(MAX_BAGGAGE, size)
    assert baggage.startswith(theirs)
    assert ("hh-session-id" in baggage) == ("hh-parent-id" in baggage)


def test_a_long_name_is_cut_between_two_characters() -> None:
    name = "日本語" * 1000
    found = origin_of(written(origin=ORIGIN._replace(session_name=name)))
    assert found is not None
    assert found.session_name
    assert len(found.session_name) > 100
    assert name.startswith(found.session_name)


def naughty_strings() -> Iterator[str]:
    yield from NAUGHTY
    chosen = random.Random(7)  # noqa: S311 - no secret is made of it
    for _ in range(1000):
        kinds = (range(0x80), range(0x100), range(0x110000))
        yield "".join(chr(chosen.choice(chosen.choice(kinds))) for _ in range(chosen.randrange(80)))


def assert_legal(carrier: dict[str, str]) -> None:
    assert all(VISIBLE.fullmatch(v) for v in carrier.values()), carrier
    assert all(MEMBER.fullmatch(m) for m in carrier["baggage"].split(",")), carrier
    assert len(carrier["baggage"]) <= MAX_BAGGAGE
    request = httpx.Request("GET", "http://x", headers=carrier)
    raw = b"".join(b"%b: %b\r\n" % pair for pair in request.headers.raw)
    assert raw.count(b"\r") == raw.count(b"\n") == len(request.headers.raw)


def test_s19_no_session_name_can_split_a_header() -> None:
    for name in naughty_strings():
        carrier = written(origin=ORIGIN._replace(session_name=name))
        assert_legal(carrier)
        found = origin_of(carrier)
        assert found is not None
        assert (found.session_id, found.parent_id) == (SESSION, EVENT)
        whole = name.encode("utf-8", "replace").decode()
        assert whole.startswith(found.session_name or "")
        assert len(whole.encode()) > 512 or (found.session_name or "") == whole


def test_s19_what_others_put_into_baggage_cannot_split_ours() -> None:
    for value in naughty_strings():
        baggage = written({"baggage": f"a=1,b={value}"})["baggage"]
        assert re.fullmatch(r"[\x20-\x7e]+", baggage)
        assert baggage.startswith("a=1")


# -- in ------------------------------------------------------------------------------------------

BAGGAGE = f"a=1;b , hh-session-id = {SESSION} ;p=1,hh-parent-id={EVENT},hh-session-name=chat%2042,"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "carrier",
    [
        {"baggage": BAGGAGE, "traceparent": TRACEPARENT},
        {"BAGGAGE": BAGGAGE, "TraceParent": TRACEPARENT},
        httpx.Headers({"Baggage": BAGGAGE, "Traceparent": TRACEPARENT}),
        [("Baggage", BAGGAGE), ("traceparent", TRACEPARENT), ("x", "y")],
        [(b"baggage", BAGGAGE.encode()), (b"traceparent", TRACEPARENT.encode())],
        [("baggage", m) for m in BAGGAGE.split(",")] + [("traceparent", TRACEPARENT)],
        httpx.Headers(
            [("baggage", m) for m in BAGGAGE.split(",")] + [("traceparent", TRACEPARENT)]
        ),
        {"baggage": BAGGAGE.replace(SESSION, SESSION.upper()), "traceparent": TRACEPARENT},
    ],
    ids=["dict", "case", "httpx", "pairs", "bytes", "many", "httpx many", "upper"],
)
def test_every_kind_of_carrier_is_read(carrier: Any) -> None:
    assert origin_of(carrier) == ORIGIN


def test_two_traceparents_say_nothing() -> None:
    pairs = [("baggage", BAGGAGE), ("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]
    assert origin_of(pairs) == ORIGIN._replace(sampled=None)


def test_what_is_lost_on_the_way_is_none() -> None:
    assert origin_of({"baggage": f"hh-session-id={SESSION}"}) == Origin(SESSION, None, None, None)
    broken = f"hh-session-id={SESSION},hh-session-name=%ff%fe,hh-parent-id={EVENT[:-1]}"
    assert origin_of({"baggage": broken}) == Origin(SESSION, None, None, None)


@pytest.mark.parametrize(
    "baggage",
    [
        "",
        "hh-session-id",
        "hh-session-id=",
        "hh-session-id=chat-42",
        f"HH-Session-Id={SESSION}",
        f"hh-session-id={SESSION[:-1]}",
        f"hh-session-id={SESSION}0",
        f"hh-session-id={SESSION}\r\nX: y",
        f"hh-session-id=%30af7651{SESSION[8:]}",
        f"hh-session-id={SESSION}," + "x" * MAX_BAGGAGE,
        f"hh-session-id={SESSION}" + ",m=1" * MAX_MEMBERS,
        f"hh-parent-id={EVENT},hh-session-name=alone",
    ],
)
def test_baggage_without_a_session_of_ours_says_nothing(baggage: str) -> None:
    assert origin_of({"baggage": baggage, "traceparent": TRACEPARENT}) is None


@settings(max_examples=200)
@given(st.text(max_size=200), st.text(max_size=80))
def test_nothing_that_comes_in_raises(baggage: str, traceparent: str) -> None:
    assert origin_of({"baggage": baggage, "traceparent": traceparent}) is None
    found = origin_of({"baggage": f"hh-session-id={SESSION},hh-session-name={baggage}"})
    assert found is None or found.session_id == SESSION or "hh-session-id" in baggage


def test_s19_inbound_headers_set_three_things_and_nothing_else() -> None:
    assert Origin._fields == ("session_id", "session_name", "parent_id", "sampled")
    hostile = (
        "hh-api-key=stolen,hh-api-url=http%3A%2F%2Fevil,hh-redact=0,HH_REDACT=0,redact=false,"
        f"server_url=http%3A%2F%2Fevil,hh-session-id={SESSION}"
    )
    assert origin_of({"baggage": hostile}) == Origin(SESSION, None, None, None)
