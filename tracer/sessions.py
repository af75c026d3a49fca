"""`session`: a decorator and a context manager around one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, overload

from tracer.callables import check_fields, travels
from tracer.context import Block, innermost
from tracer.recorder import RecorderSource
from tracer.spans import INERT_SESSION, Session
from tracer.wrapping import Opening, wrap

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SessionFactory"]

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="type[Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")


class SessionFields(TypedDict, total=False):
    """What a session may be given when it is opened."""

    inputs: Any
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    user_properties: Mapping[str, Any]


SESSION_FIELDS = frozenset(SessionFields.__annotations__)


class SessionFactory:
    """Open sessions around functions or blocks; opening one does no I/O."""

    def __init__(self, source: RecorderSource) -> None:
        self._source = source

    @overload
    def __call__(self, func: D, /) -> D: ...  # type: ignore[overload-overlap]  # a class is callable, too, but stays a class
    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __call__(
        self,
        name: str | None = None,
        *,
        session_id: str | None = None,
        **fields: Unpack[SessionFields],
    ) -> SessionContext: ...
    def __call__(self, name: Any = None, *, session_id: str | None = None, **fields: Any) -> Any:
        """Decorate a callable, or return what does so and opens a block.

        Args:
            name: a callable to decorate, or the session's name.
            session_id: join or open this one; text that is no UUID is mapped to one.
            fields: inputs, config, metadata, user_properties.
        """
        check_fields(fields, SESSION_FIELDS)
        if name is None or isinstance(name, str):
            return SessionContext(self._source, name, session_id, fields)
        return SessionContext(self._source, None, session_id, fields)(name)


class SessionContext(Block[Session]):
    """A session to open: `with` and `async with` open one, calling it decorates a function."""

    __slots__ = ("_fields", "_name", "_open", "_session_id", "_source")

    def __init__(
        self,
        source: RecorderSource,
        name: str | None,
        session_id: str | None,
        fields: Mapping[str, Any],
    ) -> None:
        self._source = source
        self._name = name
        self._session_id = session_id
        self._fields = fields
        self._open: list[Session] = []

    @overload
    def __call__(self, func: D) -> D: ...  # type: ignore[overload-overlap]  # see SessionFactory
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, func: Any) -> Any:
        """Return `func` opening a session for each call."""
        return wrap(func, _Prepare(self._source, self._session_id, self._fields), self._name)

    def __enter__(self) -> Session:
        opened = _open(self._source, self._name, self._session_id, self._fields)
        session = opened or INERT_SESSION
        self._open.append(session)
        return session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session = innermost(self._open)
        if session is not INERT_SESSION:
            try:
                session.owner.close_session(session, error)
            finally:
                session.ended = True


@dataclass(frozen=True, slots=True)
class _Prepare:
    """What one use of the decorator says about the sessions around what it decorates."""

    source: RecorderSource
    session_id: str | None
    fields: Mapping[str, Any]

    def __call__(self, func: Callable[..., Any], name: str, *, bound: bool) -> Opening:
        given = self.source, name, self.session_id, self.fields
        return Opening(
            self.source,
            lambda args, kwargs: _open(*given),
            lambda args, kwargs: _open(*given, detached=True),
        )

    def travels(self) -> bool:
        return travels((self.session_id, self.fields))


def _open(
    source: RecorderSource,
    name: str | None,
    session_id: str | None,
    fields: Mapping[str, Any],
    *,
    detached: bool = False,
) -> Session | None:
    """Return an open session, None while nothing is recorded."""
    recorder = source.recorder
    if recorder is None and source.pending:
        recorder = source.start()
    if recorder is None:
        return None
    return recorder.open_session(
        name or recorder.default.name, session_id, fields, detached=detached
    )
