"""The API as methods, one per operation of the contract: `Client` blocks, `AsyncClient` awaits.

Each call is described once, by a function that names its operation and its fields; the two
clients differ in how they send what is described. Nothing is sent twice, nothing is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast
from urllib.parse import quote

import orjson

from tracer.answers import parsed
from tracer.check import problems
from tracer.config import Connection
from tracer.schema import (
    OPERATIONS,
    Acknowledgement,
    BatchAnswer,
    DateRange,
    Event,
    EventAnswer,
    EventCreated,
    EventUpdate,
    Filter,
    Operation,
    SearchAnswer,
    Session,
    SessionAnswer,
    SessionProperties,
    fields_of,
    snake_case,
)
from tracer.transport import (
    MAX_ANSWER,
    AsyncHttpTransport,
    HttpTransport,
    Request,
    Transport,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["AsyncClient", "Client", "request_for"]

P = ParamSpec("P")
A = TypeVar("A")

_OPERATIONS = {f"{operation.group}.{operation.name}": operation for operation in OPERATIONS}
# Bytes: a session with its payload, an event with its payload, 7,500 events.
_MAX_ANSWER = {"sessions.create": 4 << 20, "events.get": 4 << 20, "events.search": 64 << 20}
# Without this member an answer says nothing; all other answers state their success.
_STATES = {"sessions.create": "session_id", "events.get": "event", "events.search": "events"}
SHOWN_PROBLEMS = 5  # of a bad batch the first few say enough


@dataclass(frozen=True, slots=True)
class _Call(Generic[A]):
    """One call, described: an operation by name, path parameters and body in one mapping."""

    name: str
    fields: Mapping[str, Any]

    def request(self) -> Request:
        return request_for(_OPERATIONS[self.name], self.fields)

    def answer(self, body: bytes) -> A:
        return cast(A, parsed(body, _STATES.get(self.name, "success")))


def request_for(operation: Operation, fields: Mapping[str, Any]) -> Request:
    """Return the request an operation makes of its flat, snake_case fields.

    The server would refuse wrong fields too, or replace them without a word (a session's
    `start_time` that is a string); here the mistake is found where it was made.

    Raises:
        TypeError: a field is missing or unknown, or a value has no form in JSON.
        ValueError: a field holds something else than the contract says.
    """
    name = f"{operation.group}.{operation.name}"
    known = operation.flat_fields()
    unknown = [field for field in fields if field not in known]
    missing = [field for field in known if field in operation.flat_required() - fields.keys()]
    if unknown:
        raise TypeError(f"{name}: no field {', '.join(unknown)}; allowed are {', '.join(known)}")
    if missing:
        raise TypeError(f"{name}: needs the field {', '.join(missing)}")
    wrong = list(islice(problems(dict(fields), _schema(operation)), SHOWN_PROBLEMS))
    if wrong:
        raise ValueError(f"{name}: {'; '.join(wrong)}")
    path = operation.path
    for parameter in operation.path_parameters:
        if fields[parameter] in ("", ".", ".."):  # a path segment that would name another path
            raise ValueError(f"{name}: {parameter} must not be {fields[parameter]!r}")
        path = path.replace(f"{{{parameter}}}", quote(fields[parameter], safe=""))
    return Request(
        operation.method, path, _body(name, operation, fields), _MAX_ANSWER.get(name, MAX_ANSWER)
    )


@cache
def _schema(operation: Operation) -> dict[str, Any]:
    return operation.flat_schema()


def _body(name: str, operation: Operation, fields: Mapping[str, Any]) -> bytes | None:
    if operation.body is None:
        return None
    spelled = {snake_case(wire): wire for wire in fields_of(operation.body)}
    body = {spelled[field]: value for field, value in fields.items() if field in spelled}
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise TypeError(f"{name}: cannot be written as JSON: {error}") from error


def _create_session(**fields: Unpack[Session]) -> _Call[SessionAnswer]:
    """Start a session; use the `session_id` of the answer from then on."""
    return _Call("sessions.create", fields)


def _create_event_batch(session_id: str, events: Sequence[Event]) -> _Call[Acknowledgement]:
    """Add events to a session, in order; a refused batch may have stored the first of them."""
    fields = {"session_id": session_id, "events": list(events)}
    return _Call("sessions.create_event_batch", fields)


def _create_event(**fields: Unpack[Event]) -> _Call[EventCreated]:
    """Store one event."""
    return _Call("events.create", fields)


def _create_batch(
    events: Sequence[Event],
    *,
    single_session: bool | None = None,
    session_properties: SessionProperties | None = None,
) -> _Call[BatchAnswer]:
    """Store events across sessions, each naming its own `session_id`."""
    given = {"single_session": single_session, "session_properties": session_properties}
    return _Call("events.create_batch", {"events": list(events), **_given(given)})


def _update(event_id: str, **fields: Unpack[EventUpdate]) -> _Call[Acknowledgement]:
    """Merge fields into a stored event; a session's event id is its session id."""
    return _Call("events.update", {"event_id": event_id, **fields})


def _get(event_id: str) -> _Call[EventAnswer]:
    """Read one event; SessionNotFoundError when there is none of this id."""
    return _Call("events.get", {"event_id": event_id})


def _search(
    filters: Sequence[Filter] | None = None,
    date_range: DateRange | None = None,
    limit: int | None = None,
    page: int | None = None,
    *,
    ignore_order: bool | None = None,
) -> _Call[SearchAnswer]:
    """Find the events that meet all filters, newest first."""
    given = {
        "filters": None if filters is None else list(filters),
        "date_range": date_range,
        "limit": limit,
        "page": page,
        "ignore_order": ignore_order,
    }
    return _Call("events.search", _given(given))


def _named(operation: Operation, fields: Mapping[str, Any]) -> _Call[dict[str, Any]]:
    return _Call(f"{operation.group}.{operation.name}", fields)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class _Group:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def send(self, call: _Call[A]) -> A:
        return call.answer(self._transport.send(call.request()))


class _AsyncGroup:
    def __init__(self, transport: AsyncHttpTransport) -> None:
        self._transport = transport

    async def send(self, call: _Call[A]) -> A:
        return call.answer(await self._transport.send(call.request()))


def _blocking(describe: Callable[P, _Call[A]]) -> Callable[Concatenate[_Group, P], A]:
    @wraps(describe)
    def method(self: _Group, /, *args: P.args, **kwargs: P.kwargs) -> A:
        return self.send(describe(*args, **kwargs))

    return method


def _awaiting(
    describe: Callable[P, _Call[A]],
) -> Callable[Concatenate[_AsyncGroup, P], Coroutine[Any, Any, A]]:
    @wraps(describe)
    async def method(self: _AsyncGroup, /, *args: P.args, **kwargs: P.kwargs) -> A:
        return await self.send(describe(*args, **kwargs))

    return method


class _Sessions(_Group):
    create = _blocking(_create_session)
    create_event_batch = _blocking(_create_event_batch)


class _Events(_Group):
    create = _blocking(_create_event)
    create_batch = _blocking(_create_batch)
    update = _blocking(_update)
    get = _blocking(_get)
    search = _blocking(_search)


class _AsyncSessions(_AsyncGroup):
    create = _awaiting(_create_session)
    create_event_batch = _awaiting(_create_event_batch)


class _AsyncEvents(_AsyncGroup):
    create = _awaiting(_create_event)
    create_batch = _awaiting(_create_batch)
    update = _awaiting(_update)
    get = _awaiting(_get)
    search = _awaiting(_search)


class Client:
    """Call the API and wait for each answer; any number of threads may share one.

    Args:
        api_key: HH_API_KEY if not given.
        base_url: HH_API_URL if not given, else the hosted service, which wants a key.
        timeout: seconds one call may take in all; HH_TIMEOUT if not given, else 10.
        allow_http: permit plain http beyond this machine, where others can read the key.
    Raises: ConfigError: no key for the hosted service, or a setting is wrong.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        *,
        allow_http: bool = False,
    ) -> None:
        connection = Connection.resolve(api_key, base_url, timeout, allow_http=allow_http)
        self._transport = HttpTransport(connection)
        self.sessions = _Sessions(self._transport)
        self.events = _Events(self._transport)

    def call(self, operation: Operation, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make the call an operation of `schema.OPERATIONS` stands for; `fields` as `request_for`.

        Raises:
            TypeError, ValueError: the fields are wrong; nothing was sent.
            TransportError: the call did not succeed.
        """
        call = _named(operation, fields)
        return call.answer(self._transport.send(call.request()))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """Call the API from asyncio or trio; arguments, methods and errors as for `Client`.

    Any number of tasks may share one, but only those of one event loop.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        *,
        allow_http: bool = False,
    ) -> None:
        connection = Connection.resolve(api_key, base_url, timeout, allow_http=allow_http)
        self._transport = AsyncHttpTransport(connection)
        self.sessions = _AsyncSessions(self._transport)
        self.events = _AsyncEvents(self._transport)

    async def call(self, operation: Operation, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make the call an operation stands for; as `Client.call`."""
        call = _named(operation, fields)
        return call.answer(await self._transport.send(call.request()))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
