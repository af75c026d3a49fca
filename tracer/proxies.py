"""A coroutine that a plain function returned, and that stays what it is: wrapt hands on the rest.

Loaded when the first of them comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wrapt import ObjectProxy

from tracer.context import CURRENT, Link
from tracer.spans import Session, Span

if TYPE_CHECKING:
    _Proxy = ObjectProxy[Any]
else:  # wrapt 1 takes no parameter
    _Proxy = ObjectProxy

__all__ = ["FollowedCoroutine"]


class FollowedCoroutine(_Proxy):
    """A coroutine that a plain function returned: it ends the link of the call when it ends.

    Not a coroutine around it: one that nobody awaits would be reported twice.
    """

    def __init__(self, wrapped: Any, link: Span | Session) -> None:
        super().__init__(wrapped)
        self._self_link = link
        self._self_inside: Link | None = link

    def send(self, value: Any) -> Any:
        """Run to the next await."""
        try:
            return self._self_step(self.__wrapped__.send, value)
        finally:
            del value  # the traceback of what is raised holds this frame: it must not keep it alive

    def throw(self, *error: Any) -> Any:
        """Raise inside, and run to the next await."""
        try:
            return self._self_step(self.__wrapped__.throw, *error)
        finally:
            del error  # the same: an exception that holds itself lives until garbage is collected

    def close(self) -> None:
        """Close it, and end the link."""
        try:
            self.__wrapped__.close()
        finally:
            self._self_link.end()

    def __del__(self) -> None:
        self._self_link.end()  # nobody awaited it, or to the end

    def _self_step(self, step: Callable[..., Any], *given: Any) -> Any:
        link = self._self_link
        before = CURRENT.get()
        CURRENT.set(self._self_inside)
        try:
            return step(*given)
        except StopIteration as stop:
            link.end(stop.value)
            raise
        except BaseException as error:
            if self.__wrapped__.cr_frame is None:  # else the step was refused: it goes on
                link.end(error=error)
            raise
        finally:
            del given
            self._self_inside = CURRENT.get()
            CURRENT.set(before)

    def __await__(self) -> Any:
        if self.__wrapped__.cr_await is not None:  # as `await` itself does with a coroutine
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)
