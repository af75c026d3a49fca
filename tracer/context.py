"""What is current in this task or thread: one context variable, a chain of links.

A link is a span, a session, or the sign of `suppress`; each knows the one it was opened in. One
variable instead of three keeps the caller's path at one read and one write, and lets several
tracers share it: a tracer looks up the chain for links of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = [
    "CURRENT",
    "Block",
    "Foreign",
    "Link",
    "OwnWork",
    "Suppress",
    "Suppression",
    "exchange",
    "innermost",
    "innermost_open",
    "nearest",
    "quietly",
    "restore",
]

L = TypeVar("L", bound="Link")
V = TypeVar("V")
R = TypeVar("R")
T = TypeVar("T")


class Link:
    """One link of the chain: `owner` is the recorder it belongs to, None for a suppression."""

    __slots__ = ("ended", "owner", "up")

    def __init__(self, owner: object, up: Link | None) -> None:
        self.owner = owner
        self.up = up
        self.ended = False


class Suppression(Link):
    """While this is the innermost link, nothing is recorded by any tracer."""

    __slots__ = ()

    def __init__(self, up: Link | None) -> None:
        super().__init__(None, up)


class OwnWork(Suppression):
    """A suppression around work of ours: what would be recorded in it is counted instead."""

    __slots__ = ()


class Foreign(Link):
    """A link of another process, for every tracer: each is shown one of its own in its place."""

    __slots__ = ()

    def __init__(self, up: Link | None) -> None:
        super().__init__(Foreign, up)  # no recorder, and not the None of a suppression

    def seen_by(self, owner: object) -> Link | None:
        """Return what it is to `owner`; None: nothing."""
        raise NotImplementedError


class Block(ABC, Generic[T]):
    """A `with` block that opens a link; `async with` does the same, since neither waits."""

    __slots__ = ()

    def __getstate__(self) -> Any:
        # what is open is open here: a copy, or what is unpickled elsewhere, has opened nothing
        names: tuple[str, ...] = type(self).__slots__
        held = {name: getattr(self, name) for name in names}
        return None, {**held, "_open": []}

    @abstractmethod
    def __enter__(self) -> T:
        """Open it."""

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; what was raised inside goes on."""

    async def __aenter__(self) -> T:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


CURRENT: ContextVar[Link | None] = ContextVar("tracer_current", default=None)


def exchange(link: Link | None) -> Link | None:
    """Make `link` current and return what was; for closures that are pickled, which hold no variable.

    A context variable cannot be pickled, a function of a module travels by its name.
    """
    before = CURRENT.get()
    CURRENT.set(link)
    return before


def nearest(owner: object) -> Link | None:
    """Return the innermost open link of `owner`, or the suppression found on the way to it.

    An ended link is never a parent.
    """
    link = CURRENT.get()
    while link is not None:
        if not link.ended:
            if link.owner is owner or link.owner is None:
                return link
            if isinstance(link, Foreign) and (seen := link.seen_by(owner)) is not None:
                return seen
        link = _above(link)
    return None


def innermost_open() -> Link | None:
    """Return the innermost open link, whoever owns it: what is carried elsewhere."""
    link = CURRENT.get()
    return _above(link) if link is not None and link.ended else link


def restore(link: Link) -> None:
    """Make current what was current before `link`, or the open link above that, if `link` still is.

    By value: a token would fail in another task, and would bring back an ended span. The chain
    is cut also where another link is current by now: see `_above`.
    """
    up = link.up
    if up is not None and up.ended:
        up = _above(link)
    if CURRENT.get() is link:
        CURRENT.set(up)


def _above(link: Link) -> Link | None:
    """Return the open link above `link`, and cut out the ended ones between them.

    Without the cut a chain of tasks, each begun inside the one before, keeps all of them alive.
    The chain is shared by threads, so each step reads a link once.
    """
    up = link.up
    while up is not None and up.ended:
        up = up.up
    link.up = up
    return up


def innermost(opened: list[L]) -> L:
    """Take out of `opened` what was entered last in this task or thread.

    One object may be entered by several tasks at once, which leave in any order.
    """
    link = CURRENT.get()
    while link is not None and link.owner is not None:
        for found in opened:
            if found is link:
                opened.remove(found)
                return found
        link = link.up
    return opened.pop()


class Suppress:
    """A block in which nothing is recorded, by no tracer."""

    def __init__(self) -> None:
        self._open: list[Suppression] = []

    def __enter__(self) -> None:
        link = Suppression(CURRENT.get())
        self._open.append(link)
        CURRENT.set(link)

    def __exit__(self, *_: object) -> None:
        link = self._open.pop()
        link.ended = True
        restore(link)


def quietly(func: Callable[[V], R], value: V) -> R:
    """Call the user's `func` where nothing it does is recorded: what our own work calls."""
    quiet = OwnWork(CURRENT.get())
    CURRENT.set(quiet)
    try:
        return func(value)
    finally:
        quiet.ended = True
        restore(quiet)
