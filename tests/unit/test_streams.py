"""Generators stay generators: every step is theirs, and one event tells what came out."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from itertools import tee
from pathlib import Path
from types import coroutine
from typing import Any

import pytest
from journal import by_name, events, local_tracer, only, sessions

from tracer.context import CURRENT
from tracer.streams import MAX_ITEMS
from tracer.tracer import Tracer


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    CURRENT.set(None)
    with local_tracer(tmp_path) as running:
        yield running
        assert running.stats().failures == 0
    assert CURRENT.get() is None, "something was left current"


def stream_of(event: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = event["metadata"]["tracer"]["stream"]
    return found


def talks() -> Generator[Any, Any, str]:
    """Answer what is sent, survive what is thrown, return what was got."""
    got: list[str] = []
    while len(got) < 3:
        try:
            got.append(repr((yield len(got))))
        except ValueError as error:
            got.append(f"caught {error}")
    return ",".join(got)


# -- the protocol ------------------------------------------------------------------------------


def drive(gen: Generator[Any, Any, Any]) -> list[Any]:
    seen: list[Any] = [next(gen), gen.send("a"), gen.throw(ValueError("b"))]
    try:
        gen.send("c")
    except StopIteration as stop:
        seen.append(stop.value)
    seen.append(next(gen, "over"))
    return seen


def test_send_throw_and_return_value_are_those_of_the_generator(tracer: Tracer) -> None:
    assert drive(tracer.chain(talks)()) == drive(talks())
    event = only(tracer)
    assert event["outputs"] == {"result": [0, 1, 2], "return": "'a',caught b,'c'"}
    assert stream_of(event) == {"completed": True, "items": 3}
    assert "error" not in event


def test_a_generator_may_answer_its_close_with_a_return(tracer: Tracer) -> None:
    def closes() -> Generator[int, None, str]:
        try:
            yield 1
        except GeneratorExit:
            return "closed"
        return "not"

    gen = tracer.chain(closes)()
    next(gen)
    plain = closes()
    next(plain)
    assert gen.close() == plain.close()
    assert stream_of(only(tracer)) == {"completed": False, "items": 1}


def test_a_generator_that_ignores_its_close_is_told_so_and_lives(tracer: Tracer) -> None:
    def ignores() -> Iterator[int]:
        for n in range(3):
            try:
                yield n
            except GeneratorExit:
                yield -1

    gen: Any = tracer.chain(ignores)()
    next(gen)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        gen.close()
    assert list(gen) == [1, 2]
    assert stream_of(only(tracer)) == {"completed": True, "items": 4}


def test_what_a_generator_raises_is_the_same_object(tracer: Tracer) -> None:
    error = KeyError("mine")

    def raises() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(KeyError) as caught:
        list(tracer.chain(raises)())
    assert caught.value is error
    assert error.__context__ is None
    event = only(tracer)
    assert event["error"] == "KeyError: 'mine'"
    assert event["outputs"] == {"result": [1]}
    assert stream_of(event) == {"completed": False, "items": 1}


def test_a_stop_iteration_inside_becomes_what_it_always_does(tracer: Tracer) -> None:
    def stops() -> Iterator[int]:
        yield 1
        raise StopIteration(2)  # noqa: PLR1708 - that is the point

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        list(tracer.chain(stops)())


def test_wrong_arguments_fail_at_the_call_as_ever(tracer: Tracer) -> None:
    def takes(a: int) -> Iterator[int]:
        yield a

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        tracer.chain(takes)()  # type: ignore[call-arg]  # that is the point
    assert events(tracer) == []


def test_a_generator_that_never_starts_is_no_event(tracer: Tracer) -> None:
    gen = tracer.chain(talks)()
    gen.close()
    del gen
    gc.collect()
    assert events(tracer) == []


def test_what_was_yielded_is_not_kept_alive(tracer: Tracer) -> None:
    class Item:
        pass

    @tracer.chain
    def items() -> Iterator[Item]:
        while True:
            yield Item()

    gen = items()
    seen = weakref.ref(next(gen))
    assert seen() is None


# -- what is current ---------------------------------------------------------------------------


def test_each_step_runs_below_its_span_and_leaves_nothing(tracer: Tracer) -> None:
    @tracer.tool
    def work() -> None: ...

    @tracer.chain
    def first() -> Iterator[int]:
        work()
        yield 1
        with tracer.tool("open over a yield"):
            yield 2
            work()

    @tracer.chain
    def second() -> Iterator[int]:
        yield 1
        work()
        yield 2

    with tracer.chain("consumer") as consumer:
        for _ in zip(first(), second(), strict=False):
            assert tracer.current_span() is consumer
            work()
    found = events(tracer)
    names = {event["event_id"]: event["event_name"] for event in found}
    parents = [(e["event_name"], names.get(e.get("parent_id", ""))) for e in found]
    assert sorted(parents, key=str) == sorted(
        [
            ("work", "first"),
            ("work", "consumer"),
            ("work", "second"),
            ("work", "consumer"),
            ("work", "open over a yield"),
            ("open over a yield", "first"),
            ("second", "consumer"),
            ("first", "consumer"),
            ("consumer", None),
        ],
        key=str,
    )


def test_parent_session_and_inputs_are_those_of_the_call(tracer: Tracer) -> None:
    @tracer.model
    def answer(messages: list[str]) -> Iterator[str]:
        yield "a"

    messages = ["q"]
    with tracer.session("chat") as session, tracer.chain("request") as request:
        gen = answer(messages)
    messages.append("later")
    assert list(gen) == ["a"]  # as a web framework does: the handler is over
    event = by_name(tracer)["answer"]
    assert event["inputs"] == {"messages": ["q"]}
    assert event["parent_id"] == request.id
    assert event["session_id"] == session.id


def test_a_session_around_a_generator_is_current_in_its_steps(tracer: Tracer) -> None:
    @tracer.session("chat")
    def chat() -> Iterator[int]:
        with tracer.tool("work"):
            pass
        yield 1
        with tracer.tool("more"):
            pass

    with tracer.tool("outside"):
        assert list(chat()) == [1]
    found = by_name(tracer)
    assert found["work"]["session_id"] == found["more"]["session_id"]
    assert found["work"]["session_id"] != found["outside"]["session_id"]
    assert [s["session_name"] for s in sessions(tracer)].count("chat") == 1


# -- what is kept ------------------------------------------------------------------------------


def collected(tracer: Tracer, items: list[Any], **options: Any) -> dict[str, Any]:
    def gives() -> Iterator[Any]:
        yield from items

    assert list(tracer.model("stream", **options)(gives)()) == items
    return events(tracer)[-1]


def test_text_is_joined_and_the_first_one_that_is_not_empty_stamped(tracer: Tracer) -> None:
    event = collected(tracer, ["", "Hel", "lo"])
    assert event["outputs"] == {"result": "Hello"}
    assert 0 <= event["metadata"]["time_to_first_token"] <= event["duration"] + 0.001
    assert "time_to_first_token" not in collected(tracer, ["", None, [], {}])["metadata"]
    assert "time_to_first_token" not in collected(tracer, [])["metadata"]
    assert "time_to_first_token" in collected(tracer, [0])["metadata"]


def test_items_are_kept_as_they_were_when_yielded(tracer: Tracer) -> None:
    @tracer.chain
    def grows() -> Iterator[list[int]]:
        item: list[int] = []
        for n in range(3):
            item.append(n)
            yield item

    for _ in grows():
        pass
    assert only(tracer)["outputs"] == {"result": [[0], [0, 1], [0, 1, 2]]}


def test_reduce_makes_the_output(tracer: Tracer) -> None:
    event = collected(tracer, [{"t": "a"}, {"t": "b"}], reduce=lambda c: {"text": c[0]["t"]})
    assert event["outputs"] == {"text": "a"}
    assert collected(tracer, [1, 2], reduce=sum)["outputs"] == {"result": 3}


def test_a_reduce_that_raises_costs_only_itself(tmp_path: Path) -> None:
    with local_tracer(tmp_path) as tracer:
        event = collected(tracer, [1, 2], reduce=lambda items: items[9])
        assert event["outputs"] == {"result": [1, 2]}
        assert tracer.stats().failures == 1


def test_a_stream_without_end_does_not_fill_the_memory(tracer: Tracer) -> None:
    event = collected(tracer, list(range(MAX_ITEMS + 5)))
    assert len(event["outputs"]["result"]) == MAX_ITEMS
    assert stream_of(event) == {"completed": True, "items": MAX_ITEMS + 5, "kept": MAX_ITEMS}
    event = collected(tracer, ["x" * 600_000] * 4)
    assert stream_of(event) == {"completed": True, "items": 4, "kept": 2}


# -- async -------------------------------------------------------------------------------------

Agen = Callable[[], AsyncIterator[int]]


@pytest.fixture
def counting(tracer: Tracer, caplog: pytest.LogCaptureFixture) -> Iterator[Agen]:
    @tracer.chain
    async def count() -> AsyncIterator[int]:
        try:
            for n in range(3):
                await asyncio.sleep(0)
                yield n
        finally:
            await asyncio.sleep(0)

    yield count
    gc.collect()
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


def test_an_async_generator_is_one_event(tracer: Tracer, counting: Agen) -> None:
    async def main() -> None:
        assert [n async for n in counting()] == [0, 1, 2]

    asyncio.run(main())
    assert only(tracer)["outputs"] == {"result": [0, 1, 2]}
    assert stream_of(only(tracer)) == {"completed": True, "items": 3}


def test_asend_and_athrow_reach_the_generator(tracer: Tracer) -> None:
    async def talks() -> AsyncIterator[Any]:
        got: Any = None
        for _ in range(4):
            try:
                got = yield got
            except ValueError as error:
                got = str(error)

    async def drive(agen: Any) -> list[Any]:
        seen = [await agen.asend(None), await agen.asend("a"), await agen.athrow(ValueError("b"))]
        seen += [n async for n in agen]
        return seen

    plain = asyncio.run(drive(talks()))
    assert asyncio.run(drive(tracer.chain(talks)())) == plain == [None, "a", "b", None]
    assert only(tracer)["outputs"] == {"result": [None, "a", "b", None]}


def test_a_generator_that_can_be_awaited_stays_so_and_is_a_call(tracer: Tracer) -> None:
    """What it yields is for the event loop: the output is what it returns."""

    def hops() -> Generator[Any, Any, str]:
        yield
        return "done"

    async def waits(awaitable: Any) -> str:
        found: str = await awaitable
        return found

    awaitable: Any = coroutine(hops)
    decorated = tracer.chain(awaitable)
    assert asyncio.run(waits(decorated())) == asyncio.run(waits(awaitable())) == "done"
    event = only(tracer)
    assert event["outputs"] == {"result": "done"}
    assert "tracer" not in event["metadata"]
    for gen in (decorated(), awaitable()):
        assert list(gen) == [None]
    for gen in (decorated(), awaitable()):
        next(gen)
        gen.close()
    assert "outputs" not in events(tracer)[-1]
    with pytest.raises(TypeError, match="can't be used in 'await'"):
        asyncio.run(waits(tracer.chain(talks)()))


# -- garbage -----------------------------------------------------------------------------------


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect what is raised where nobody can catch it."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_value))
    return found


def test_a_cycle_of_garbage_through_a_generator_is_closed_quietly(
    tracer: Tracer, unraisable: list[Any]
) -> None:
    """The collector may close first what we follow, which drops us while it is being closed."""
    kept: list[Any] = []

    def follows_itself() -> Iterator[int]:
        yield 1
        yield from kept.pop()

    for _ in range(3):
        one, own = tee(tracer.chain(follows_itself)())
        kept.append(own)
        del own
        assert [next(one), next(one)] == [1, 1]
        del one
        gc.collect()
    assert unraisable == []
    assert [stream_of(e)["completed"] for e in events(tracer)] == [False] * 3
    assert not any("error" in e for e in events(tracer))


def test_a_cycle_of_garbage_through_an_async_generator_is_closed_quietly(
    tracer: Tracer, unraisable: list[Any]
) -> None:
    async def items(known: list[Any]) -> AsyncIterator[Any]:
        yield 1
        yield known

    for _ in range(3):
        known: list[Any] = []
        agen: Any = tracer.chain(items)(known)
        known.append(agen)
        with pytest.raises(StopIteration):
            agen.__anext__().send(None)  # by hand: no event loop finalizes it
        del agen, known
        gc.collect()
    assert unraisable == []
    assert [stream_of(e)["completed"] for e in events(tracer)] == [False] * 3


def test_a_coroutine_handed_out_is_awaited_once_at_a_time(tracer: Tracer) -> None:
    async def waits() -> None:
        await asyncio.sleep(2)

    async def main(given: Any) -> None:
        async def awaits() -> None:
            await given

        first = asyncio.create_task(awaits())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await given
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main(waits()))
    asyncio.run(main(tracer.chain(lambda: waits())()))
    assert only(tracer)["error"] == "CancelledError"


def test_a_refused_step_does_not_end_a_coroutine_that_was_handed_out(tracer: Tracer) -> None:
    async def later() -> str:
        assert tracer.current_span() is not None
        return "done"

    @tracer.chain
    def hands_out() -> Any:
        return later()

    pending = hands_out()
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        pending.send(1)
    assert events(tracer) == []
    with pytest.raises(StopIteration):
        pending.send(None)
    event = only(tracer)
    assert event["outputs"] == {"result": "done"}
    assert "error" not in event


def test_a_yielded_item_that_ours_fails_on_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> bytes:
        raise RuntimeError("ours")

    monkeypatch.setattr("tracer.streams.encode", fails)
    with local_tracer(tmp_path) as tracer:
        made = object()
        assert list(tracer.chain(lambda: (yield made))()) == [made]
        assert stream_of(only(tracer)) == {"completed": True, "items": 1, "kept": 0}
        assert tracer.stats().failures == 1


def test_the_end_of_a_stream_that_ours_fails_in_still_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> bytes:
        raise RuntimeError("ours")

    with local_tracer(tmp_path) as tracer:

        @tracer.chain
        def numbers() -> Iterator[int]:
            yield 1
            monkeypatch.setattr("tracer.streams.encode", fails)

        assert list(numbers()) == [1]
        assert stream_of(only(tracer))["completed"] is True
        assert tracer.stats().failures == 1


def test_a_future_that_nobody_settles_is_an_event_when_it_is_dropped(tracer: Tracer) -> None:
    @tracer.chain
    def promises() -> Any:
        return asyncio.get_running_loop().create_future()

    async def main() -> None:
        promises()
        gc.collect()

    asyncio.run(main())
    assert only(tracer)["event_name"] == "promises"
