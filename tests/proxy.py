"""A proxy on real sockets that passes requests on, and does to some of them what networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from raw_server import Listener, read_message

__all__ = [
    "CLOSE",
    "PASS",
    "REFUSE",
    "STALL",
    "SWALLOW",
    "Fault",
    "Proxy",
    "close_after",
    "cut_at",
    "drip",
]


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        kind: pass it; refuse, reset before anything is read; cut, reset after `number` bytes of it
            were passed on; stall, pass it and hold the answer back; swallow, pass it and reset
            once it is answered; drip, give the answer `number` bytes a second; close, answer
            and close the connection `number` seconds later without having said so.
    """

    kind: str
    number: float = 0


PASS, REFUSE, STALL = Fault("pass"), Fault("refuse"), Fault("stall")
SWALLOW, CLOSE = Fault("swallow"), Fault("close")


def cut_at(byte: int) -> Fault:
    """Reset the connection behind that byte of the request."""
    return Fault("cut", byte)


def close_after(seconds: float) -> Fault:
    """Close the connection once it was idle for so long."""
    return Fault("close", seconds)


def drip(bytes_a_second: float) -> Fault:
    """Give the answer byte by byte."""
    return Fault("drip", bytes_a_second)


class Proxy(Listener):
    """Pass requests on to the server on `port`; `plan` gets the number of a request.

    It is asked when the first bytes of the request are there, with those bytes.
    """

    def __init__(self, port: int, plan: Callable[[int, bytes], Fault]) -> None:
        self.plan = plan
        self.faults = 0  # requests that were not passed on as they came
        self._upstream = port
        self._numbers = count()
        super().__init__()

    def talk(self, connection: socket.socket) -> None:
        """Pass on what comes from a client, and the answers."""
        with socket.create_connection(("127.0.0.1", self._upstream), 10) as upstream:
            while first := connection.recv(1 << 16):
                fault = self.plan(next(self._numbers), first)
                self.faults += fault is not PASS
                if not self._exchange(connection, upstream, first, fault):
                    return

    def _exchange(
        self, client: socket.socket, upstream: socket.socket, first: bytes, fault: Fault
    ) -> bool:
        """Pass one request and its answer on as told; tell whether the connection goes on."""
        if fault.kind == "refuse":
            return _reset(client)
        if fault.kind == "cut":
            while len(first) < fault.number and (piece := client.recv(1 << 16)):
                first += piece
            upstream.sendall(first[: int(fault.number)])
            return _reset(client)
        upstream.sendall(read_message(client, first))
        answer = read_message(upstream)
        if fault.kind == "swallow":
            return _reset(client)
        if fault.kind == "stall":
            self.stopped.wait()
            return False
        if fault.kind == "drip":
            for at in range(len(answer)):
                client.sendall(answer[at : at + 1])
                if self.stopped.wait(1 / fault.number):
                    return False
            return True
        client.sendall(answer)
        if fault.kind == "close":
            client.settimeout(fault.number)
            with contextlib.suppress(TimeoutError):
                return bool(fault.number and client.recv(1, socket.MSG_PEEK))
            return False
        client.settimeout(None)
        return True


def _reset(client: socket.socket) -> bool:
    """Close so that the other side gets a RST, whatever it was doing."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False
