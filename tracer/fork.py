"""One set of fork hooks for the process, registered when the package is imported.

`os.register_at_fork` cannot be undone and runs hooks in the order of registration, so they are
registered early and once, and look up who is alive at the moment of the fork.
"""

from __future__ import annotations

import os

# its own after-fork hook must be registered before ours
import threading  # noqa: F401  # pyright: ignore[reportUnusedImport]  # see above
import weakref
from typing import Protocol

__all__ = ["Forkable", "watch"]


class Forkable(Protocol):
    """What wants to know about forks; each method must be quick and never raise."""

    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_watched: dict[int, weakref.ref[Forkable]] = {}


def watch(participant: Forkable) -> None:
    """Call the methods of `participant` around every fork for as long as it lives."""
    key = id(participant)
    _watched[key] = weakref.ref(participant, lambda _: _watched.pop(key, None) and None)


def _alive() -> list[Forkable]:
    # `list(dict.values())` is one step of the interpreter: no thread changes the dict meanwhile
    found = (reference() for reference in list(_watched.values()))
    return [participant for participant in found if participant is not None]


def _before() -> None:
    for participant in _alive():
        participant.before_fork()


def _after_in_parent() -> None:
    for participant in _alive():
        participant.after_fork_in_parent()


def _after_in_child() -> None:
    for participant in _alive():
        participant.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
