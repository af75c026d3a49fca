"""The wire contract as data: every field, every operation, once.

The records are `TypedDict`s, so type checkers see them; their annotations carry the descriptions,
so the JSON Schemas, the command line's flags, the collector's validation and its OpenAPI document
are all derived from here. Source: HoneyHive's v1 API reference and the sessions references of its
TypeScript client and command line (read 2026-11).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    TypedDict,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)
from typing import is_typeddict as _is_typeddict

__all__ = [
    "EVENT_TYPES",
    "MAX_SEARCH_LIMIT",
    "OPERATIONS",
    "SEARCH_LIMIT",
    "Acknowledgement",
    "BatchAnswer",
    "DateRange",
    "Event",
    "EventAnswer",
    "EventBatch",
    "EventCreated",
    "EventUpdate",
    "Filter",
    "Operation",
    "SearchAnswer",
    "SearchRequest",
    "Session",
    "SessionAnswer",
    "SessionEventBatch",
    "SessionProperties",
    "fields_of",
    "json_schema",
    "required_of",
    "snake_case",
]

JsonObject = dict[str, Any]
EventType = Literal["chain", "model", "tool", "session"]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)

SEARCH_LIMIT = 1000  # events of a search whose request names no limit
MAX_SEARCH_LIMIT = 7500


class Session(TypedDict, total=False):
    """A session to open; posting it again merges `metadata` and `user_properties`."""

    session_id: Annotated[str, "UUID of the session; the server makes one if omitted or no UUID"]
    event_name: Annotated[str, "Fallback name if session_name is not provided"]
    session_name: Annotated[str, "Display name for the session"]
    source: Annotated[str, "Where the session comes from, e.g. production or sdk-python"]
    start_time: Annotated[float, "Session start time as Unix milliseconds"]
    end_time: Annotated[float, "Session end time as Unix milliseconds"]
    duration: Annotated[float, "Session duration in milliseconds"]
    config: Annotated[JsonObject, "Configuration associated with the session"]
    inputs: Annotated[JsonObject, "Input data for the session"]
    outputs: Annotated[JsonObject, "Output data from the session"]
    metadata: Annotated[JsonObject, "Arbitrary metadata for the session"]
    user_properties: Annotated[JsonObject, "User properties associated with the session"]
    children_ids: Annotated[list[str], "IDs of child events in this session"]


class _EventRequired(TypedDict):
    event_type: Annotated[EventType, "What kind of step this is"]
    inputs: Annotated[JsonObject, "What went in"]


class Event(_EventRequired, total=False):
    """One finished step of a session."""

    project_id: Annotated[str, "Project the event belongs to"]
    source: Annotated[str, "Where the event comes from"]
    event_name: Annotated[str, "Display name of the event"]
    event_id: Annotated[str, "UUID of the event; the server makes one if omitted"]
    session_id: Annotated[str, "Session the event belongs to"]
    parent_id: Annotated[str, "Event this one ran inside; the session's id if omitted"]
    children_ids: Annotated[list[str], "IDs of child events"]
    config: Annotated[JsonObject, "Settings in force, e.g. model and temperature"]
    outputs: Annotated[JsonObject, "What came out"]
    error: Annotated[str | None, "What went wrong, null or absent when nothing did"]
    start_time: Annotated[float, "Start as Unix milliseconds"]
    end_time: Annotated[float, "End as Unix milliseconds"]
    duration: Annotated[float, "Duration in milliseconds"]
    metadata: Annotated[JsonObject, "Arbitrary metadata"]
    feedback: Annotated[JsonObject, "Feedback of users or graders"]
    metrics: Annotated[JsonObject, "Measured values"]
    user_properties: Annotated[JsonObject, "Properties of the user"]


class SessionAnswer(TypedDict):
    """The stored session event; `session_id` is the one to use from now on."""

    event_id: str
    session_id: str
    org_id: str
    workspace_id: str
    project_id: str
    parent_id: str | None
    children_ids: list[str]
    event_type: EventType
    event_name: str
    source: str
    config: JsonObject
    inputs: JsonObject
    outputs: JsonObject
    error: str | None
    metadata: JsonObject
    metrics: JsonObject
    feedback: JsonObject
    user_properties: JsonObject
    start_time: float
    end_time: float | None
    duration: float | None


class SessionEventBatch(TypedDict):
    """Events to add to the session named in the path."""

    events: Annotated[list[Event], "Events to add to the session"]


class SessionProperties(TypedDict, total=False):
    """What a session made by a batch is to be called."""

    session_name: Annotated[str, "Display name for the session"]
    start_time: Annotated[float, "Session start time as Unix milliseconds"]
    metadata: Annotated[JsonObject, "Arbitrary metadata for the session"]
    user_properties: Annotated[JsonObject, "User properties associated with the session"]


class _EventBatchRequired(TypedDict):
    events: Annotated[list[Event], "Events, each with its own session_id"]


class EventBatch(_EventBatchRequired, total=False):
    """Events across sessions, each carrying its own `session_id`."""

    single_session: Annotated[bool, "Put all events into one session"]
    session_properties: Annotated[SessionProperties, "Properties of that one session"]


class EventUpdate(TypedDict, total=False):
    """What to merge into a stored event; a session's event id is its session id."""

    metadata: Annotated[JsonObject, "Arbitrary metadata"]
    feedback: Annotated[JsonObject, "Feedback of users or graders"]
    metrics: Annotated[JsonObject, "Measured values"]
    outputs: Annotated[JsonObject, "What came out"]
    config: Annotated[JsonObject, "Settings in force, e.g. model and temperature"]
    user_properties: Annotated[JsonObject, "Properties of the user"]
    duration: Annotated[float, "Duration in milliseconds"]
    end_time: Annotated[float, "End as Unix milliseconds"]
    children_ids: Annotated[list[str], "IDs of child events"]


class _FilterRequired(TypedDict):
    field: Annotated[str, "Name of a field, or a path such as metadata.cost"]
    operator: Annotated[
        Literal[
            "exists",
            "not exists",
            "is",
            "is not",
            "contains",
            "not contains",
            "greater than",
            "less than",
            "after",
            "before",
        ],
        "How to compare",
    ]


class Filter(_FilterRequired, total=False):
    """One condition of a search; all of them must hold."""

    value: Annotated[Any, "What to compare with; not needed by exists and not exists"]
    type: Annotated[Literal["string", "number", "boolean", "datetime"], "How to read the value"]


class DateRange(TypedDict, total=False):
    """A span of start times, both ends included."""

    start_time: Annotated[str, "ISO 8601 time"]
    end_time: Annotated[str, "ISO 8601 time"]


class SearchRequest(TypedDict, total=False):
    """Which events to read, newest `start_time` first."""

    filters: Annotated[list[Filter], "Conditions that all must hold"]
    dateRange: Annotated[DateRange, "Only events that started in this span"]
    limit: Annotated[
        int, f"Events a page, {SEARCH_LIMIT:,} if omitted, {MAX_SEARCH_LIMIT:,} at most"
    ]
    page: Annotated[int, "Page to read, from 1"]
    ignore_order: Annotated[bool, "Accepted and ignored"]


class Acknowledgement(TypedDict):
    """The server has it."""

    success: bool


class EventCreated(TypedDict):
    """The server stored one event."""

    success: bool
    event_id: str


class _BatchAnswerRequired(TypedDict):
    event_ids: list[str]
    success: bool


class BatchAnswer(_BatchAnswerRequired, total=False):
    """The server stored these events."""

    session_id: str


class EventAnswer(TypedDict):
    """One stored event, wrapped."""

    event: JsonObject


class SearchAnswer(TypedDict):
    """A page of events, and how many match in all."""

    events: list[JsonObject]
    totalEvents: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One request the API answers: `body` and `answer` are TypedDicts, `path` has {parameters}."""

    group: str
    name: str
    method: str
    path: str
    body: type | None
    answer: type
    summary: str

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """The names between braces in `path`; each is a required string."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    def flat_fields(self) -> dict[str, Any]:
        """Return path parameters and body fields in one mapping, snake_case name to type."""
        found: dict[str, Any] = {
            name: Annotated[str, f"{name.split('_')[0].capitalize()} ID in the request's path"]
            for name in self.path_parameters
        }
        if self.body is not None:
            found |= {snake_case(name): hint for name, hint in fields_of(self.body).items()}
        return found

    def flat_required(self) -> frozenset[str]:
        """Return the names in `flat_fields` without which the request cannot be made."""
        in_body = required_of(self.body) if self.body is not None else frozenset[str]()
        return frozenset(self.path_parameters) | in_body

    def flat_schema(self) -> JsonObject:
        """Return the JSON Schema of path parameters and body flattened into one object."""
        return _object_schema(self.flat_fields(), self.flat_required(), self.summary)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "sessions", "create", "POST", "/v1/sessions", Session, SessionAnswer, "Start a new session"
    ),
    Operation(
        "sessions",
        "create_event_batch",
        "POST",
        "/v1/sessions/{session_id}/events/batch",
        SessionEventBatch,
        Acknowledgement,
        "Add a batch of events to a session",
    ),
    Operation("events", "create", "POST", "/v1/events", Event, EventCreated, "Store one event"),
    Operation(
        "events",
        "create_batch",
        "POST",
        "/v1/events/batch",
        EventBatch,
        BatchAnswer,
        "Store a batch of events across sessions",
    ),
    Operation(
        "events",
        "update",
        "PUT",
        "/v1/events/{event_id}",
        EventUpdate,
        Acknowledgement,
        "Merge fields into a stored event or session",
    ),
    Operation("events", "get", "GET", "/v1/events/{event_id}", None, EventAnswer, "Read one event"),
    Operation(
        "events",
        "search",
        "POST",
        "/v1/events/search",
        SearchRequest,
        SearchAnswer,
        "Find events, newest first",
    ),
)


def snake_case(name: str) -> str:
    """Return the snake_case spelling of a wire name: the wire says `dateRange` once."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda m: "_" + m[1].lower(), name)


@cache
def fields_of(record: type) -> dict[str, Any]:
    """Return the fields of a TypedDict, name to `Annotated` type, in the order written."""
    return get_type_hints(record, include_extras=True)


def required_of(record: type) -> frozenset[str]:
    """Return the names of the fields a TypedDict cannot do without."""
    keys: frozenset[str] = cast(Any, record).__required_keys__  # every TypedDict has it
    return keys


_SCALARS: dict[Any, str] = {str: "string", float: "number", int: "integer", bool: "boolean"}


def json_schema(hint: Any) -> JsonObject:
    """Return the JSON Schema (2020-12) of a type used in this module."""
    if get_origin(hint) is Annotated:
        inner, description = get_args(hint)
        return {"description": description, **json_schema(inner)}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if _is_typeddict(hint):
        return _object_schema(fields_of(hint), required_of(hint), _first_line(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": json_schema(arguments[0])}
    if origin is dict:
        return {"type": "object"}
    if type(None) in arguments:
        (inner,) = (a for a in arguments if a is not type(None))
        schema = json_schema(inner)
        return {**schema, "type": [schema["type"], "null"]}
    return {}  # Any: every JSON value


def _object_schema(fields: dict[str, Any], required: frozenset[str], title: str) -> JsonObject:
    schema: JsonObject = {
        "description": title,
        "type": "object",
        "properties": {name: json_schema(hint) for name, hint in fields.items()},
        "additionalProperties": False,
    }
    if required:
        schema["required"] = [name for name in fields if name in required]
    return schema


def _first_line(record: type) -> str:
    return (record.__doc__ or "").partition("\n")[0]
