"""The cheapest server that still tells the truth: it parses every body and keeps distinct ids.

Run as a process of its own: `python benchmarks/sink.py`. Prints `sink ready at URL`, answers as
the contract says, stores nothing. `GET /counts` says what came, `DELETE /counts` forgets it.
"""

from __future__ import annotations

import gzip
import socket
import sys
from threading import Thread
from typing import Any

import orjson

SAMPLE = 100  # events a body holds at least, so that its size is worth compressing once
CHUNK = 1 << 18


class Counts:
    """What arrived since the last `DELETE /counts`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start again from nothing."""
        self.events = self.body_bytes = self.wire_bytes = self.requests = 0
        self.ids: set[str] = set()
        self.gzip_bytes_per_event: float | None = None

    def add(self, events: list[dict[str, Any]], body: bytes) -> None:
        """Count the events of one body; compress the first large one to see what it would take."""
        self.events += len(events)
        self.body_bytes += len(body)
        self.ids.update([event["event_id"] for event in events])
        if self.gzip_bytes_per_event is None and len(events) >= SAMPLE:
            self.gzip_bytes_per_event = len(gzip.compress(body, 6)) / len(events)

    def as_json(self) -> bytes:
        """Return the counts as the answer to `GET /counts`."""
        return orjson.dumps(
            {
                "events": self.events,
                "distinct": len(self.ids),
                "body_bytes": self.body_bytes,
                "wire_bytes": self.wire_bytes,
                "requests": self.requests,
                "gzip_bytes_per_event": self.gzip_bytes_per_event,
            }
        )


COUNTS = Counts()


def answer(method: bytes, path: bytes, body: bytes) -> bytes:
    """Return the JSON that answers one request."""
    if path == b"/counts":
        if method == b"DELETE":
            COUNTS.clear()
        return COUNTS.as_json()
    if path == b"/v1/sessions":
        return orjson.dumps({"session_id": orjson.loads(body).get("session_id", "")})
    if path.endswith(b"/events/batch"):
        events = orjson.loads(body)["events"]
        COUNTS.add(events, body)
        if path == b"/v1/events/batch":
            ids = [event["event_id"] for event in events]
            return orjson.dumps({"event_ids": ids, "success": True})
    return b'{"success":true}'


def talk(connection: socket.socket) -> None:
    """Answer the requests of one connection, one after another."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held = bytearray()
    with connection:
        while True:
            while (split := held.find(b"\r\n\r\n")) < 0:
                piece = connection.recv(CHUNK)
                if not piece:
                    return
                held += piece
            line, *lines = bytes(held[:split]).split(b"\r\n")
            headers = dict(entry.lower().split(b": ", 1) for entry in lines)
            end = split + 4 + int(headers.get(b"content-length", b"0"))
            while len(held) < end:
                piece = connection.recv(CHUNK)
                if not piece:
                    return
                held += piece
            body = bytes(held[split + 4 : end])
            del held[:end]
            method, path, _ = line.split(b" ", 2)
            if path != b"/counts":
                COUNTS.requests += 1
                COUNTS.wire_bytes += end
            if headers.get(b"content-encoding") == b"gzip":
                body = gzip.decompress(body)
            said = answer(method, path, body)
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            connection.sendall(head % len(said) + said)


def main() -> None:
    """Listen on a free port until killed."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    sys.stdout.write(f"sink ready at http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        connection, _ = listening.accept()
        Thread(target=talk, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
