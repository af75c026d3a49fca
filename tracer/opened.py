"""Sessions this process opened at the server: under which id, and how to open them again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from tracer.errors import AuthError, ConflictError, TransientError, TransportError
from tracer.exchange import Exchange

__all__ = ["Opened", "OpenedSessions", "Refusal", "wire_id_of"]

# The start of every session frame, as recorder.py writes it: enough to open the session with.
_ID_AND_NAME = re.compile(rb'{"session_id":"[^"]*","session_name":"(?:[^"\\]|\\.)*"')


class Refusal(NamedTuple):
    """Why events were not taken: the reason they are counted under, and what the server said.

    Attributes:
        splits: fewer of them, or smaller ones, may be taken.
    """

    reason: str
    error: TransportError
    splits: bool = False


class Opened:
    """A session this process opened: the id the server answered with, and how to open it again.

    Attributes:
        refused: why its events are dropped.
    """

    def __init__(self, session: bytes, body: bytes) -> None:
        self._own_id = wire_id_of(session)
        self.wire_id = self._own_id
        self.body = body
        self.reopened = False
        self.refused: Refusal | None = None

    @property
    def is_renamed(self) -> bool:
        """Whether the server answered with another id than it was asked for."""
        return self.wire_id != self._own_id


class OpenedSessions:
    """Open sessions with `create`, once each, and remember them.

    Raises TransientError and AuthError; every other refusal is kept in the session.
    """

    def __init__(self, exchange: Exchange, note: Callable[[TransportError], None]) -> None:
        self._exchange = exchange
        self._note = note
        self._known: dict[bytes, Opened] = {}

    def get(self, session: bytes) -> Opened | None:
        """Return what is known of a session; None: a dead process opened it, or it has ended."""
        return self._known.get(session)

    def may_cross(self, session: bytes) -> bool:
        """Tell whether the session id in an event's JSON is the one the server knows."""
        known = self._known.get(session)
        return known is not None and not (known.is_renamed or known.refused)

    def forget(self, session: bytes) -> None:
        """Let go of a session that has ended; late events find it on the server."""
        known = self._known.get(session)
        # under another id they would not
        if known is not None and not known.is_renamed:
            del self._known[session]

    def wire_id(self, session: bytes) -> str:
        """Return the id the server knows a session by."""
        known = self._known.get(session)
        return wire_id_of(session) if known is None else known.wire_id

    def open(self, session: bytes, body: bytes) -> Opened | None:
        """Open a session, or add what `body` says to it; None: nothing was to be done."""
        known = self._known.get(session)
        if known is not None and (known.body == body or known.is_renamed):
            # two threads announced it at once; or its id would be replaced once more
            return None
        opened = Opened(session, body)
        self._create(opened)
        self._known[session] = opened  # only now: an error must not make it look open
        return opened

    def reopen(self, session: bytes, error: TransportError) -> None:
        """Create a vanished session once; its second disappearance costs its events."""
        opened = self._known.get(session)
        if opened is None:
            body = b'{"session_id":"%b"}' % wire_id_of(session).encode()
            opened = self._known[session] = Opened(session, body)
        if opened.reopened:
            opened.refused = Refusal("session_gone", error)
        else:
            self._create(opened)
            opened.reopened = True

    def _create(self, opened: Opened) -> None:
        """Ask for it; when refused once more with id and name alone, then give it up."""
        shortest = _ID_AND_NAME.match(opened.body)
        bodies = [opened.body, shortest[0] + b"}"] if shortest else [opened.body]
        for body in bodies:
            try:
                answer = self._exchange.request("POST", "/v1/sessions", body, states="session_id")
            except ConflictError:
                return
            except (TransientError, AuthError):
                raise
            except TransportError as error:
                self._note(error)
                opened.refused = Refusal("rejected", error)
            else:
                opened.wire_id = str(answer["session_id"])
                opened.refused = None
                return


def wire_id_of(session: bytes) -> str:
    """Return a session's own id as the wire has it."""
    return str(UUID(bytes=session))
