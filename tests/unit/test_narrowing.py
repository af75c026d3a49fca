"""Narrowing down without sockets: every position, and what each costs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

import pytest

from tracer.buffer import Buffer
from tracer.delivery import Delivery
from tracer.errors import PayloadTooLargeError, RejectedError
from tracer.frame import DELIVERED, EVENT
from tracer.memory import PrivateMemory
from tracer.narrowing import FORGET, MAX_REFUSALS, Breaker, SizeLimit
from tracer.segment import Frame
from tracer.transport import Request

NUMBERS = re.compile(rb'"n":(\d+)')
SESSION, OTHER = bytes(15) + b"\1", bytes(15) + b"\2"


class Server:
    """A transport that keeps event numbers, and refuses bodies as told."""

    def __init__(self, refuses: Callable[[bytes], Exception | None], *, reads: bool = True) -> None:
        self.refuses = refuses
        self.reads = reads
        self.bodies: list[tuple[str, bytes]] = []
        self.stored: list[int] = []

    def send(self, request: Request) -> bytes:
        body = request.body or b""
        self.bodies.append((request.path, body))
        error = self.refuses(body)
        if error is not None:
            raise error
        if self.reads:
            self.stored += map(int, NUMBERS.findall(body))
        return b'{"success":true}'

    def close(self) -> None:
        return


def event(number: int, pad: int = 0) -> bytes:
    return b'{"n":%d,"inputs":{%b}}' % (number, b'"x":"%b"' % (b"x" * pad) if pad else b"")


def deliver(server: Server, numbers: range) -> Buffer:
    buffer = Buffer(PrivateMemory(64 << 20), 100_000, 64 << 20)
    for number in numbers:
        buffer.write(EVENT, SESSION, event(number))
    Delivery(buffer, server).send(buffer.read(5000, 4 << 20))
    assert buffer.read(1, 1) == []
    return buffer


class Outcomes(Buffer):
    """A buffer that only keeps what became of frames: a thousand of them are settled a million times."""

    def __init__(self) -> None:
        super().__init__(PrivateMemory(8 << 20), 10_000, 8 << 20)
        self.refused: list[tuple[Frame, str | None]] = []
        self.stored: list[Frame] = []

    def settle(self, frames: list[Frame], state: int, reason: str | None = None) -> None:
        if state == DELIVERED:
            self.stored += frames
        else:
            self.refused += [(frame, reason) for frame in frames]


def test_f15_one_poison_event_at_every_position() -> None:
    source = Buffer(PrivateMemory(8 << 20), 10_000, 8 << 20)
    for number in range(1000):
        source.write(EVENT, SESSION, event(number))
    source.write(EVENT, OTHER, event(1000))
    frames = source.read(5000, 4 << 20)
    order = {id(frame): number for number, frame in enumerate(frames)}
    most = 0
    for position in range(1000):
        poison = b'"n":%d,' % position
        server = Server(
            lambda body, p=poison: RejectedError("no", 400) if p in body else None,  # type: ignore[misc]
            reads=False,
        )
        outcomes = Outcomes()
        Delivery(outcomes, server).send(frames)
        assert [(order[id(f)], reason) for f, reason in outcomes.refused] == [
            (position, "rejected")
        ]
        stored = sorted(order[id(frame)] for frame in outcomes.stored)
        assert stored == [n for n in range(1001) if n != position]
        # the others come before anything is narrowed down
        assert server.bodies[1][1] == b'{"events":[%b]}' % event(1000)
        most = max(most, len(server.bodies) - 2)
    assert 19 <= most <= 2 * math.ceil(math.log2(1000)) + 2


def test_several_poison_events_cost_themselves_alone() -> None:
    poison = {0, 1, 2, 3, 250, 251, 499, 998, 999}

    def refuses(body: bytes) -> Exception | None:
        found = set(map(int, NUMBERS.findall(body)))
        return RejectedError("no", 422) if found & poison else None

    server = Server(refuses)
    buffer = deliver(server, range(1000))
    assert set(server.stored) == set(range(1000)) - poison
    assert buffer.books().dropped == {"rejected": len(poison)}


@pytest.mark.parametrize("number", [1, 2, 3, 500, 5000])
@pytest.mark.parametrize("error", [RejectedError("no", 400), PayloadTooLargeError("no", 413)])
def test_f16_the_first_batch_of_a_server_that_refuses_all(error: Exception, number: int) -> None:
    server = Server(lambda _: error)
    buffer = deliver(server, range(number))
    assert len(server.bodies) <= 52
    reason = "too_large" if isinstance(error, PayloadTooLargeError) else "rejected"
    assert buffer.books().dropped == {reason: number}


@pytest.mark.parametrize("limit", [100, 1000, 10_000, 30_000])
def test_f23_a_limit_is_found_in_a_logarithm_of_requests(limit: int) -> None:
    refused = 0

    def refuses(body: bytes) -> Exception | None:
        nonlocal refused
        refused += len(body) > limit
        return PayloadTooLargeError("no", 413) if len(body) > limit else None

    server = Server(refuses)
    buffer = deliver(server, range(1000))
    assert sorted(server.stored) == list(range(1000))
    assert buffer.books().dropped == {}
    assert refused <= math.ceil(math.log2(1000))


@pytest.mark.parametrize("limit", [1 << 20, 1_000_000, 5 << 18, 6_000_000 // 4])
def test_f23_a_full_batch_takes_a_logarithm_of_requests_in_all(limit: int) -> None:
    number = 500
    server = Server(
        lambda body: PayloadTooLargeError("no", 413) if len(body) > limit else None, reads=False
    )
    buffer = Buffer(PrivateMemory(64 << 20), 100_000, 64 << 20)
    for n in range(number):
        buffer.write(EVENT, SESSION, event(n, (4 << 20) // number - 30))
    delivery = Delivery(buffer, server)
    delivery.send(buffer.read(number, 4 << 20))
    assert buffer.books().delivered == number
    assert len(server.bodies) <= math.ceil(math.log2(number))
    for n in range(number):
        buffer.write(EVENT, SESSION, event(n, (4 << 20) // number - 30))
    before = len(server.bodies)
    delivery.send(buffer.read(number, 4 << 20))
    assert buffer.books().delivered == 2 * number
    assert all(len(body) <= limit for _, body in server.bodies[before:]), "learned once"


def frames(*sizes: int) -> list[Frame]:
    buffer = Buffer(PrivateMemory(64 << 20), 100_000, 64 << 20)
    for size in sizes:
        buffer.write(EVENT, SESSION, b"x" * (size - 1))
    return buffer.read(5000, 64 << 20)


def test_a_learned_limit_is_kept_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = SizeLimit()
    batch = frames(*[100] * 10)
    assert limit.count(batch) == 10
    limit.refused(1000)
    assert limit.count(batch) == 5
    limit.refused(500)
    assert limit.count(batch) == 2
    assert limit.count(frames(1000, 1)) == 1, "one that is too large goes alone"
    limit.accepted(250)
    now += FORGET - 1
    assert limit.count(batch) == 2
    now += 1
    assert limit.count(batch) == 10


def test_a_limit_that_was_lifted_is_noticed_at_once() -> None:
    limit = SizeLimit()
    limit.refused(300)  # one event alone, of a server that refused everything
    assert limit.count(frames(100, 100)) == 1
    limit.accepted(299)
    assert limit.count(frames(100, 100)) == 1
    limit.accepted(300)
    assert limit.count(frames(100, 100)) == 2


def test_a_breaker_opens_after_refusals_in_a_row_and_closes_with_one_acceptance() -> None:
    breaker = Breaker()
    for _ in range(MAX_REFUSALS - 1):
        breaker.refused()
    assert not breaker.is_open
    breaker.accepted()
    for _ in range(MAX_REFUSALS):
        assert not breaker.is_open
        breaker.refused()
    assert breaker.is_open
    breaker.accepted()
    assert not breaker.is_open
