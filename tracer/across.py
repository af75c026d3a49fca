"""`POST /v1/events/batch`: one request for events of many sessions, where the server has it."""

from __future__ import annotations

import time

from tracer.errors import AuthError, TransientError, TransportError
from tracer.exchange import Exchange
from tracer.segment import Frame

__all__ = ["MAX_EVENTS", "Across"]

MANY = 4  # sessions; up to here a request for each costs no more than what is lost when one fails
MAX_EVENTS = 1000  # a request; the answer names each, and 64 KiB of it are read
ABSENT = 600.0  # seconds before a route that is not there, or not as described, is tried again
REFUSED = 60.0  # the same when it was one of the events that was refused


class Across:
    """Use the route while it works; whatever it refuses is left to the batches of each session.

    That way the policy for a refused event or a vanished session is the same on either route.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._not_before = 0.0

    def suits(self, sessions: int) -> bool:
        """Tell whether events of so many sessions should go this way."""
        return sessions > MANY and time.monotonic() >= self._not_before

    def post(self, frames: list[Frame]) -> TransportError | None:
        """Send events of several sessions; return why not all of them were stored.

        Raises: TransientError, AuthError: the server, not the route, is the reason.
        """
        body = b'{"events":[%b]}' % b",".join([frame.payload for frame in frames])
        try:
            self._exchange.request(
                "POST", "/v1/events/batch", body, frames=frames, names_events=True
            )
        except AuthError:
            raise
        except TransportError as error:
            if isinstance(error, TransientError) and error.status != 200:
                raise
            absent = error.status in (200, 404, 405, 501)
            self._not_before = time.monotonic() + (ABSENT if absent else REFUSED)
            return error
        return None
