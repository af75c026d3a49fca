"""A server on a bare socket: a test says, byte by byte, what it answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Listener", "RawServer", "Script", "answer", "read_message"]

# Gets the server, the connection and the request; returns to wait for the next one.
Script = Callable[["RawServer", socket.socket, bytes], None]


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Script:
    """Return a script that gives one answer to everything."""

    def script(server: RawServer, connection: socket.socket, request: bytes) -> None:
        lines = {"Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body)

    return script


class Listener:
    """Listen on a free port of this machine, one thread a connection, until the end of the block."""

    def __init__(self) -> None:
        self.connections = 0
        self.stopped = threading.Event()
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def talk(self, connection: socket.socket) -> None:
        """Do what is to be done on one connection; an OSError ends it."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                if self.stopped.is_set():
                    connection.close()
                    return
                self.connections += 1
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._run, args=(connection,)))
                self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.talk(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            pass  # wakes `accept`
        self._socket.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


class RawServer(Listener):
    """Keep every request as bytes, answer by script."""

    def __init__(self, script: Script, *, reads: bool = True) -> None:
        self.requests: list[bytes] = []
        self._script = script
        self._reads = reads  # False: hand a connection over without reading from it
        super().__init__()

    def pause(self, seconds: float) -> None:
        """Let time pass, but not after the end of the test."""
        if self.stopped.wait(seconds):
            raise ConnectionAbortedError

    def talk(self, connection: socket.socket) -> None:
        """Answer each request by the script."""
        if not self._reads:
            self._script(self, connection, b"")
            return
        while request := read_message(connection):
            self.requests.append(request)
            self._script(self, connection, request)


def read_message(connection: socket.socket, data: bytes = b"") -> bytes:
    """Read a request or an answer whole, `data` being its beginning; nothing if it ends early."""
    while b"\r\n\r\n" not in data:
        if not (piece := connection.recv(65536)):
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        if not (piece := connection.recv(1 << 20)):
            return b""
        body += piece
    return head + b"\r\n\r\n" + body
