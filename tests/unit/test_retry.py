"""How long to wait, and for what."""

from __future__ import annotations

import pytest
from tenacity import Future, RetryCallState

from tracer.errors import (
    AuthError,
    ConflictError,
    PayloadTooLargeError,
    RejectedError,
    SessionNotFoundError,
    TransientError,
    TransportError,
)
from tracer.retry import AUTH_PROBE, BASE, CAP, SPREAD, Backoff, retrying


def state(attempt: int, error: Exception) -> RetryCallState:
    found = RetryCallState(retrying(lambda _: None, lambda _: False), None, (), {})
    found.attempt_number = attempt
    found.outcome = Future.construct(attempt, error, has_exception=True)
    return found


@pytest.mark.parametrize("attempt", range(1, 12))
def test_a_wait_is_between_half_its_step_and_all_of_it(attempt: int) -> None:
    step = min(BASE * 2 ** (attempt - 1), CAP)
    waits = [Backoff()(state(attempt, TransientError("down"))) for _ in range(500)]
    assert min(waits) >= step / 2
    assert max(waits) <= step
    assert max(waits) - min(waits) > step / 4, "clients would return together"


@pytest.mark.parametrize("said", [0.0, 0.5, 2.0, 300.0])
@pytest.mark.parametrize("attempt", [1, 8])
def test_retry_after_is_the_least_and_only_jitter_comes_on_top(said: float, attempt: int) -> None:
    error = TransientError("busy", 503, retry_after=said)
    waits = [Backoff()(state(attempt, error)) for _ in range(500)]
    assert min(waits) >= said
    assert max(waits) <= said + SPREAD


def test_a_refused_key_is_looked_at_rarely() -> None:
    assert Backoff()(state(1, AuthError("no", 401))) == AUTH_PROBE
    assert AUTH_PROBE >= 30


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("x", 409),
        SessionNotFoundError("x", 404),
        PayloadTooLargeError("x", 413),
        RejectedError("x", 400),
        RuntimeError("a bug"),
    ],
)
def test_what_stays_refused_is_raised_at_once(error: Exception) -> None:
    calls = 0

    def send() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        retrying(lambda _: None, lambda _: False)(send)
    assert calls == 1


@pytest.mark.parametrize("error", [TransientError("x"), AuthError("x", 401)])
def test_what_may_work_again_is_tried_until_told_to_stop(error: TransportError) -> None:
    calls, paused = 0, []

    def send() -> str:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise error
        return "sent"

    loop = retrying(lambda s: paused.append(s.attempt_number), lambda _: False)
    assert loop(send) == "sent"
    assert paused == [1, 2, 3, 4]
    calls, paused = 0, []
    assert loop(send) == "sent"
    assert paused == [1, 2, 3, 4], "each batch begins with the shortest wait"
    calls = 0
    with pytest.raises(type(error)):
        retrying(lambda _: None, lambda _: True)(send)
    assert calls == 1
