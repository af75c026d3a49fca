"""Our own fakes: a server that keeps the wire contract in memory and misbehaves on demand."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from raw_server import RawServer, answer

__all__ = ["Answer", "ContractServer", "Seen"]


@dataclass(frozen=True)
class Seen:
    """A request as it came over the wire."""

    method: str
    path: str
    body: Any
    size: int
    moment: float  # monotonic seconds

    @property
    def is_batch(self) -> bool:
        return self.path.endswith("/events/batch")

    @property
    def is_across(self) -> bool:
        """Whether it is a batch that names no session in its path."""
        return self.path == "/v1/events/batch"

    @property
    def session_ids(self) -> set[str]:
        """The sessions that a batch is for."""
        if self.is_across:
            return {event["session_id"] for event in self.body["events"]}
        return {self.path.split("/")[3]}

    @property
    def event_ids(self) -> list[str]:
        return [event["event_id"] for event in self.body.get("events", [])]


@dataclass(frozen=True)
class Answer:
    """What the server says instead of doing what it was asked."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    stores: bool = False  # does what it was asked nevertheless


Verdict = Callable[[Seen], Answer | None]


class ContractServer(RawServer):
    """Create sessions, store batches, merge updates; `verdict` may refuse any request.

    `renames` maps a session id asked for to the one that is answered; a batch for a session that
    nobody created is answered 404, as the hosted service does.
    """

    def __init__(self, verdict: Verdict = lambda _: None) -> None:
        self.verdict = verdict
        self.seen: list[Seen] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.updates: list[tuple[str, dict[str, Any]]] = []
        self.renames: dict[str, str] = {}
        self.resent = 0  # events that were stored already
        self._lock = Lock()  # protects everything above: each connection has a thread
        super().__init__(self._serve)

    def batches(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.is_batch]

    def _serve(self, same: RawServer, connection: socket.socket, request: bytes) -> None:
        head, _, raw = request.partition(b"\r\n\r\n")
        method, path = head.split(b" ", 2)[:2]
        body = json.loads(raw) if raw else None
        seen = Seen(method.decode(), path.decode(), body, len(raw), time.monotonic())
        with self._lock:
            self.seen.append(seen)
            verdict = self.verdict(seen)
            status, said = 200, b'{"success":true}'
            if verdict is None or verdict.stores:
                status, said = self._do(seen)
            if verdict is not None:
                status = verdict.status
                said = verdict.body if verdict.body is not None else _refusal(status)
        answer(status, said, verdict.headers if verdict else None)(same, connection, request)

    def _do(self, seen: Seen) -> tuple[int, bytes]:
        if seen.path == "/v1/sessions":
            session_id = self.renames.get(seen.body["session_id"], seen.body["session_id"])
            self.sessions.setdefault(session_id, seen.body)
            return 200, json.dumps({"session_id": session_id, "event_id": session_id}).encode()
        if seen.is_batch:
            if not seen.session_ids <= self.sessions.keys():
                return 404, _refusal(404)
            for event in seen.body["events"]:
                self.resent += event["event_id"] in self.events
                session_id = event["session_id"] if seen.is_across else seen.path.split("/")[3]
                self.events[event["event_id"]] = {**event, "session_id": session_id}
            if seen.is_across:
                said = {"success": True, "event_ids": seen.event_ids}
                return 200, json.dumps(said).encode()
            return 200, b'{"success":true}'
        event_id = seen.path.rsplit("/", 1)[1]
        if event_id not in self.events and event_id not in self.sessions:
            return 404, _refusal(404)
        self.updates.append((event_id, seen.body))
        return 200, b'{"success":true}'


def _refusal(status: int) -> bytes:
    said = {"statusCode": status, "message": "as told", "success": False, "errorCode": "TEST"}
    return json.dumps(said).encode()
