"""What is current in this task or thread: one context variable, a chain of links.

A link is a span, a session, or the sign of `suppress`; each knows the one it was opened in. One
variable instead of three keeps the caller's path at one read and one write, and lets several
tracers share it: a tracer looks up the chain for links of its own.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["CURRENT", "Link", "Suppression", "nearest", "restore"]


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


CURRENT: ContextVar[Link | None] = ContextVar("tracer_current", default=None)


def nearest(owner: object) -> Link | None:
    """Return the innermost open link of `owner`, or the suppression found on the way to it.

    An ended link is never a parent. Ended ones are cut out of the chain in passing, so that a
    chain of tasks, each started by the one before, does not keep all of them alive.
    """
    link = CURRENT.get()
    while link is not None:
        if not link.ended and (link.owner is owner or link.owner is None):
            return link
        while link.up is not None and link.up.ended:
            link.up = link.up.up
        link = link.up
    return None


def restore(link: Link) -> None:
    """Make current what was current before `link`, if `link` still is.

    By value: a token would fail in another task, and would bring back an ended span.
    """
    if CURRENT.get() is link:
        CURRENT.set(link.up)
