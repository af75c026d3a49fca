"""Which errors are tried again, and how long to wait before it."""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_base, wait_exponential

from tracer.errors import AuthError, TransientError

__all__ = ["Backoff", "retrying"]

BASE = 0.5  # seconds before the second attempt
CAP = 10.0  # seconds; a server that is back is noticed soon, one that is down costs 6 a minute
SPREAD = 0.5  # seconds added at random to a Retry-After, so that clients do not return together
AUTH_PROBE = 30.0  # seconds between looks whether a refused key works again


class Backoff(wait_base):
    """Exponential, capped; at least half of each step is waited, the other half is jitter.

    A `Retry-After` replaces it: the server knows best, and transport.py has bounded its wish.
    """

    def __init__(self) -> None:
        self._ceiling = wait_exponential(multiplier=BASE, max=CAP)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, AuthError):
            return AUTH_PROBE
        if isinstance(error, TransientError) and error.retry_after is not None:
            return error.retry_after + random.uniform(0, SPREAD)  # noqa: S311 - no secret
        ceiling = self._ceiling(retry_state)
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - no secret


def retrying(
    pause: Callable[[RetryCallState], None], stop: Callable[[RetryCallState], bool]
) -> Retrying:
    """Return the one loop around every request of the background thread.

    What the contract calls retryable is tried for as long as `stop` allows, and a refused key too,
    which may work again; then the last error is raised. Anything else is raised at once.

    Args:
        pause: called before each wait; does the waiting, so that it can be cut short.
    """
    return Retrying(
        retry=retry_if_exception_type((TransientError, AuthError)),
        wait=Backoff(),
        stop=stop,
        before_sleep=pause,
        sleep=lambda _: None,
        reraise=True,
    )
