"""The local collector as a destination: there or not there, and not always at the same place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tracer.config import Connection
from tracer.errors import TransientError
from tracer.local import LocalAddress, find
from tracer.transport import HttpTransport, Request, Transport

__all__ = ["LocalCollector"]


class LocalCollector:
    """Looks for the collector that runs on this machine, and sends to where it was seen last.

    For one flusher: its thread looks before each attempt, so that nothing is sent to a port whose
    collector has gone.
    """

    def __init__(
        self,
        place: Path | None,
        connect: Callable[[Connection], Transport] = HttpTransport,
    ) -> None:
        """Look at the file `place`; None: there never is a collector."""
        self._place = place
        self._connect = connect
        self.address: LocalAddress | None = None

    def look(self) -> bool:
        """Tell whether a collector runs; never raises and never waits."""
        self.address = None if self._place is None else find(self._place)
        return self.address is not None

    def transport(self, timeout: float) -> Transport:
        """Return what sends to the collector, wherever it is at the time."""
        return _LocalTransport(self, self._connect, timeout)


class _LocalTransport:
    def __init__(
        self, collector: LocalCollector, connect: Callable[[Connection], Transport], timeout: float
    ) -> None:
        self._collector = collector
        self._connect = connect
        self._timeout = timeout
        self._address: LocalAddress | None = None  # of `_inner`
        self._inner: Transport | None = None

    def send(self, request: Request) -> bytes:
        address = self._collector.address
        if address is None:
            raise TransientError("no local collector runs")
        if self._inner is None or address != self._address:
            self.close()
            self._inner = self._connect(Connection(address.url, address.token, self._timeout))
            self._address = address
        return self._inner.send(request)

    def close(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.close()
