"""From one process into another: what was current there is the parent here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from journal import by_name, events, local_tracer, only, sessions, updates

from tracer.carrier import Arrival, carrier_of, extract, inject
from tracer.context import CURRENT, Link, Suppression
from tracer.tracer import Tracer
from tracer.w3c import origin_of

FOREIGN = "0af76519-16cd-43dd-8448-eb211c80319c"
ABOVE = "6a1f0c3e-94b1-4c2d-b7ad-6b7169203331"
INBOUND = {"Baggage": f"hh-session-id={FOREIGN},hh-parent-id={ABOVE},hh-session-name=far%20away"}


@pytest.fixture(autouse=True)
def nothing_is_left_current() -> Iterator[None]:
    yield
    assert CURRENT.get() is None


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    with local_tracer(tmp_path / "here", session_name="here") as running:
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Tracer]:
    with local_tracer(tmp_path / "there", session_name="there") as running:
        yield running


def test_an_event_there_is_below_the_span_here(tracer: Tracer, other: Tracer) -> None:
    with tracer.session("chat 42, ünï 日本") as session, tracer.chain("root") as root:
        carrier = inject(tracer._recorder)
    with extract(other._recorder, carrier) as joined, other.tool("leaf"):
        assert (joined.id, joined.name) == (session.id, "chat 42, ünï 日本")
        assert other.current_session().id == session.id
    event = only(other)
    assert (event["session_id"], event["parent_id"]) == (session.id, root.id)
    (created,) = sessions(other)
    assert (created["session_id"], created["session_name"]) == (session.id, "chat 42, ünï 日本")
    assert updates(other) == []  # it is ended by who opened it


def test_a_session_without_a_span_is_joined_at_its_root(tracer: Tracer, other: Tracer) -> None:
    with tracer.session("chat") as session:
        carrier = inject(tracer._recorder)
    with extract(other._recorder, carrier), other.tool("leaf"):
        pass
    event = only(other)
    assert event["session_id"] == session.id
    assert "parent_id" not in event


def test_outside_any_session_the_default_one_is_carried(tracer: Tracer, other: Tracer) -> None:
    with extract(other._recorder, inject(tracer._recorder)), other.tool("leaf"):
        pass
    assert only(other)["session_id"] == tracer.current_session().id
    assert sessions(other)[0]["session_name"] == "here"


def test_a_service_in_between_passes_on_what_it_was_given(tracer: Tracer) -> None:
    with extract(tracer._recorder, INBOUND):
        assert origin_of(inject(tracer._recorder)) == (FOREIGN, "far away", ABOVE, True)
        with tracer.chain("mine") as mine:
            assert origin_of(inject(tracer._recorder)) == (FOREIGN, "far away", mine.id, True)


@pytest.mark.parametrize("carrier", [{"x": "y"}, httpx.Headers({"x": "y"})], ids=["dict", "httpx"])
def test_inject_changes_the_carrier_it_was_given(carrier: Any, tracer: Tracer) -> None:
    with tracer.chain("root") as root:
        assert inject(tracer._recorder, carrier) is carrier
    assert carrier["x"] == "y"
    found = origin_of(carrier)
    assert found is not None
    assert found.parent_id == root.id
    assert carrier["traceparent"].split("-")[1:3] == [
        root.session_id.replace("-", ""),
        root.id.replace("-", "")[16:],
    ]


def test_inside_suppress_nothing_goes_out_or_in(tracer: Tracer) -> None:
    with tracer.suppress():
        assert inject(tracer._recorder) == {}
        with extract(tracer._recorder, INBOUND), tracer.tool("never"):
            assert inject(tracer._recorder) == {}
    assert events(tracer) == []
    assert tracer.stats().failures == 0


@pytest.mark.parametrize("carrier", [MappingProxyType({"x": "y"}), 5, object(), [("a", "b")]])
def test_inject_never_raises(
    carrier: Any, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    assert inject(tracer._recorder, carrier) is carrier
    assert tracer.stats().failures == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "carrier",
    [
        {},
        None,
        5,
        "baggage",
        b"baggage",
        [()],
        [("baggage",)],
        [("a", "b", "c")],
        {1: 2},
        {"baggage": None},
        {"baggage": object()},
        {"baggage": "hh-session-id=chat"},
        {"baggage": f"hh-session-id={FOREIGN}\n"},
        {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        Exception,
    ],
)
def test_garbage_changes_nothing_and_says_nothing(
    carrier: Any, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with tracer.chain("root") as root:
        with extract(tracer._recorder, carrier) as session:
            assert session.id == ""
            assert tracer.current_span() is root
        with tracer.tool("leaf"):
            pass
    assert by_name(tracer)["leaf"]["parent_id"] == root.id
    assert caplog.records == []
    assert tracer.stats().failures == 0


def test_while_nothing_is_recorded_extract_does_nothing() -> None:
    with extract(None, INBOUND) as session:
        assert session.id == ""
        assert CURRENT.get() is None


def test_without_its_name_a_session_is_joined_and_not_created(tracer: Tracer) -> None:
    with extract(tracer._recorder, {"baggage": f"hh-session-id={FOREIGN}"}), tracer.tool("leaf"):
        pass
    assert only(tracer)["session_id"] == FOREIGN
    assert sessions(tracer) == []


def test_extract_restores_what_was_current(tracer: Tracer) -> None:
    with tracer.session("local") as local, tracer.chain("root") as root:
        with pytest.raises(ValueError, match="mine"), extract(tracer._recorder, INBOUND):
            raise ValueError("mine")
        assert tracer.current_span() is root
        assert tracer.current_session() is local


def test_what_is_still_open_when_the_block_ends_is_no_child_of_it_afterwards(
    tracer: Tracer,
) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def late() -> None:
            await go.wait()
            with tracer.tool("late"):
                pass

        async with extract(tracer._recorder, INBOUND):
            task = asyncio.create_task(late())
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())
    assert only(tracer)["session_id"] == tracer.current_session().id


def test_requests_served_at_once_keep_to_their_sessions(tracer: Tracer) -> None:
    blocks: dict[int, str] = {}

    async def serve(number: int) -> None:
        session = f"00000000-0000-4000-8000-{number:012x}"
        above = f"00000000-0000-4000-9000-{number:012x}"
        headers = {"baggage": f"hh-session-id={session},hh-parent-id={above},hh-session-name=s"}
        async with extract(tracer._recorder, headers):
            await asyncio.sleep(0)
            with tracer.chain("serve", inputs={"number": number}) as span:
                blocks[number] = span.id
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*map(serve, range(200)))

    asyncio.run(main())
    for event in events(tracer):
        number = event["inputs"]["number"]
        assert event["event_id"] == blocks[number]
        assert event["session_id"].endswith(f"8000-{number:012x}")
        assert event["parent_id"].endswith(f"9000-{number:012x}")


def test_one_block_entered_by_many_tasks_is_left_by_each(tracer: Tracer) -> None:
    block = extract(tracer._recorder, INBOUND)

    async def enter(number: int) -> None:
        async with block:
            for _ in range(number % 3):
                await asyncio.sleep(0)
            with tracer.tool("leaf"):
                pass
        assert tracer.current_span() is None

    async def main() -> None:
        await asyncio.gather(*map(enter, range(50)))

    asyncio.run(main())
    assert {(e["session_id"], e["parent_id"]) for e in events(tracer)} == {(FOREIGN, ABOVE)}
    assert len(events(tracer)) == 50


def test_a_session_joined_again_and_again_is_created_once(tracer: Tracer) -> None:
    alone = {"baggage": f"hh-session-id={FOREIGN},hh-session-name=far%20away"}
    for carrier in (INBOUND, alone, INBOUND, alone):
        with extract(tracer._recorder, carrier), tracer.tool("leaf"):
            pass
    assert len({str(body) for body in sessions(tracer)}) == 1  # one body: one request


def test_joined_sessions_are_forgotten_in_time(tracer: Tracer) -> None:
    for number in range(2500):
        headers = {"baggage": f"hh-session-id={number:08x}{FOREIGN[8:]},hh-session-name=s"}
        with extract(tracer._recorder, headers):
            pass
    assert len(tracer._recorder._joined) <= 1000


def test_the_span_of_another_process_is_only_a_parent(tracer: Tracer) -> None:
    with extract(tracer._recorder, INBOUND):
        span = tracer.current_span()
        assert span is not None
        assert (span.id, span.session_id, span.name, span.event_type) == (
            ABOVE,
            FOREIGN,
            "",
            "chain",
        )
        span.set(outputs={"not": "mine"})
        tracer.enrich_span(metadata={"not": "mine"})
        tracer._recorder.end(span)
    assert events(tracer) == []
    assert tracer.stats().failures == 0


def test_a_joined_session_can_be_enriched(tracer: Tracer) -> None:
    with extract(tracer._recorder, INBOUND):
        tracer.enrich_session(outputs={"status": "ok"})
    assert updates(tracer) == [(FOREIGN, {"outputs": {"status": "ok"}})]
    assert sessions(tracer)[0]["session_name"] == "far away"


def test_extract_of_one_tracer_is_nothing_to_another(tracer: Tracer, other: Tracer) -> None:
    with extract(tracer._recorder, INBOUND), other.chain("root"), tracer.tool("leaf"):
        pass
    assert "parent_id" not in only(other)
    assert only(other)["session_id"] == other.current_session().id
    assert only(tracer)["parent_id"] == ABOVE


# -- what travels to the worker of a process pool ------------------------------------------------


def test_an_arrival_is_there_for_every_tracer(tracer: Tracer, other: Tracer) -> None:
    with Arrival(INBOUND):
        for found in (tracer, other):
            with found.chain("root"), found.tool("leaf"):
                pass
            with found.chain("second"):
                pass
    for found in (tracer, other):
        named = by_name(found)
        assert named["root"]["parent_id"] == named["second"]["parent_id"] == ABOVE
        assert named["leaf"]["parent_id"] == named["root"]["event_id"]
        assert {e["session_id"] for e in named.values()} == {FOREIGN}
        assert sessions(found)[0]["session_name"] == "far away"
    assert tracer.current_span() is None


def test_an_arrival_of_garbage_is_none(tracer: Tracer) -> None:
    with Arrival({"baggage": "x"}), tracer.tool("leaf"):
        pass
    assert only(tracer)["session_id"] == tracer.current_session().id


def test_what_is_open_becomes_a_carrier(tracer: Tracer) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(tracer.session("chat"))
        assert origin_of(carrier_of(session)) == (session.id, "chat", None, True)
        span = stack.enter_context(tracer.chain("root"))
        assert origin_of(carrier_of(span)) == (session.id, "chat", span.id, True)
    assert carrier_of(Suppression(None)) is None
    with Arrival(INBOUND):
        link = CURRENT.get()
        assert link is not None
        assert origin_of(carrier_of(link)) == (FOREIGN, "far away", ABOVE, True)
    with pytest.raises(TypeError):
        carrier_of(Link(object(), None))
