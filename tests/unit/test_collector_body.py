"""Bodies are bounded in size, in the memory all of them take, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from tracer.collector import body
from tracer.collector.body import BodyReader
from tracer.collector.store import RefusedError

Receive = Callable[[], Awaitable[dict[str, Any]]]


def request(receive: Receive) -> Request:
    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def sending(*chunks: bytes, then: asyncio.Event | None = None) -> Receive:
    """Return a client that sends `chunks`, then ends the body once `then` is set."""
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": True}
        if then is not None:
            await then.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def test_chunks_are_joined() -> None:
    reader = BodyReader()
    assert asyncio.run(reader.read(request(sending(b"ab", b"c")))) == b"abc"


def test_a_body_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_BODY", 3)
    assert asyncio.run(BodyReader().read(request(sending(b"ab", b"c")))) == b"abc"
    with pytest.raises(RefusedError) as caught:
        asyncio.run(BodyReader().read(request(sending(b"ab", b"cd"))))
    assert caught.value.status == 413


def test_all_bodies_together_are_bounded_and_room_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "MAX_READING", 10)

    async def run() -> None:
        reader, finish = BodyReader(), asyncio.Event()
        slow = asyncio.create_task(reader.read(request(sending(b"12345678", then=finish))))
        while not reader._held:
            await asyncio.sleep(0)
        with pytest.raises(RefusedError) as caught:
            await reader.read(request(sending(b"123")))
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        finish.set()
        assert await slow == b"12345678"
        assert await reader.read(request(sending(b"123"))) == b"123"

    asyncio.run(run())


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.01)

    async def run() -> None:
        reader = BodyReader()
        with pytest.raises(RefusedError) as caught:
            await reader.read(request(sending(b"1", then=asyncio.Event())))
        assert caught.value.status == 408
        assert reader._held == 0

    asyncio.run(run())
