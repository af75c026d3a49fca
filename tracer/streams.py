"""Following what runs in steps: generators, async generators, coroutines and futures handed out.

Each step runs with the span current and the consumer's own current link back in place afterwards;
no context token is held across a step, since the next one may come from another task or thread.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from types import AsyncGeneratorType, FrameType, FunctionType, GeneratorType, coroutine
from typing import Any, cast

from tracer.context import CURRENT, Link, quietly
from tracer.encode import encode
from tracer.event import Encoded
from tracer.spans import NOTHING, Session, Span

__all__ = [
    "Reduce",
    "Stream",
    "follow_async",
    "follow_future",
    "follow_generator",
    "unhooked",
    "was_taken",
]

Reduce = Callable[[list[Any]], Any]  # what was yielded, in order -> the event's output

MAX_ITEMS = 10_000  # items of one stream that are kept; all are counted
MAX_BYTES = 1 << 20  # the same in characters and bytes of JSON: an event is cut at this size anyway

_SIZED = (str, bytes, list, tuple, dict)  # empty ones are no first token
_FIXED = (str, int, float, bool, type(None))  # nobody can change these later
_FIXED_SIZE = 8  # bytes that a number counts for


class Stream:
    """What one call yields, how far it came, and the end of the span or session around it.

    `inside` is what is current within the steps: the link itself, or what a step left open.
    """

    __slots__ = (
        "_awaited",
        "_beyond",
        "_first",
        "_items",
        "_keeps_raw",
        "_link",
        "_reduce",
        "_room",
        "_running",
        "inside",
    )

    def __init__(self, link: Span | Session, reduce: Reduce | None = None) -> None:
        self._link = link
        self.inside: Link | None = link
        self._awaited = False
        self._reduce = reduce
        self._keeps_raw = reduce is not None or (
            isinstance(link, Span) and link.shape.process_outputs is not None
        )
        # as they are, for the user's function or because nobody can change them; else JSON, bytes
        self._items: list[Any] = []
        self._beyond = 0  # items that were not kept
        self._room = MAX_BYTES if isinstance(link, Span) else 0
        self._first = isinstance(link, Span)
        self._running = False

    def begin(self) -> None:
        """Start the clock: the first step is about to run."""
        self._running = True
        link = self._link
        if isinstance(link, Span):
            with link.owner.guard.during("the beginning of a stream"):
                link.restart()

    def keep_result_alone(self) -> None:
        """Take what is yielded for something between the generator and the event loop."""
        self._awaited, self._first, self._room = True, False, 0

    def take(self, item: Any) -> None:
        """Keep what a step yields, as it is now; never raises because of it."""
        kind = cast(Any, type(item))
        try:
            if self._first and item is not None and (kind not in _SIZED or item):
                self._first = False
                cast(Span, self._link).first_token()
            if self._room <= 0:
                self._beyond += 1
                return
            if kind is str:
                self._room -= len(item)  # pyright: ignore[reportArgumentType] - `kind` says so
            elif kind in _FIXED or self._keeps_raw:
                self._room -= _FIXED_SIZE
            else:
                # with its comma behind: a copy, since what orjson returns holds on to 4 KB
                item = encode(item) + b","
                self._room -= len(item)
            self._items.append(item)
            if len(self._items) == MAX_ITEMS:
                self._room = 0
        except Exception as error:  # noqa: BLE001 - ours, not the user's: the guard logs it once
            self._beyond += 1
            self._link.owner.guard.caught("a yielded item", error)

    def complete(self, result: Any = None, *, closed: bool = False) -> None:
        """End: the generator returned `result`, by itself or because it was closed."""
        self._end(result, completed=not closed)

    def fail(self, error: BaseException) -> None:
        """End: the generator was closed, or raised."""
        self._end(error=None if isinstance(error, GeneratorExit) else error)

    def _end(
        self,
        result: Any = None,
        *,
        completed: bool = False,
        error: BaseException | None = None,
    ) -> None:
        if not self._running:
            return
        self._running = False
        link = self._link
        if isinstance(link, Session) or self._awaited:
            link.end(result if completed else NOTHING, error)
            return
        outputs: Any = NOTHING
        with link.owner.guard.during("the end of a stream"):
            kept = len(self._items)
            noted: dict[str, Any] = {"completed": completed, "items": kept + self._beyond}
            if self._beyond:
                noted["kept"] = kept
            link.note(stream=noted)
            outputs = self._outputs(result, link)
        link.end(outputs, error)

    def _outputs(self, result: Any, link: Span) -> Any:
        items, self._items = self._items, []
        joined: Any = items
        if self._reduce is not None:
            with link.owner.guard.during("reduce"):
                joined = quietly(self._reduce, items)
        elif items and all(type(item) is str for item in items):
            joined = "".join(items)
        elif not self._keeps_raw:
            encoded = [item if type(item) is bytes else encode(item) + b"," for item in items]
            returned = b"" if result is None else b',"return":' + encode(result)
            return Encoded(b'{"result":[%b]%b}' % (b"".join(encoded)[:-1], returned))
        return joined if result is None else {"result": joined, "return": result}

    def __del__(self) -> None:
        # an async generator that is dropped when its loop is closed runs no line any more
        self._end()


def follow(gen: GeneratorType[Any, Any, Any], stream: Stream) -> Generator[Any, Any, Any]:
    """Run `gen` step by step: what is sent and thrown in goes in, what comes out comes out."""
    step: Callable[[Any], Any] = gen.send
    value: Any = None
    closing = False
    # a local would keep what is yielded alive until the next step, and what is returned as long
    # as somebody keeps a traceback
    box: list[Any] = []
    stream.begin()
    while True:
        before = CURRENT.get()
        CURRENT.set(stream.inside)
        try:
            box.append(step(value))
        except StopIteration as stop:
            box.append(stop.value)
            break
        except BaseException as error:
            stream.fail(error)
            raise
        finally:
            value = None
            stream.inside = CURRENT.get()
            CURRENT.set(before)
        stream.take(box[0])
        # GeneratorExit is thrown in like any other, not turned into `close`: a generator may
        # answer it with one more item, and only its own `close` finds that wrong
        try:
            value = yield box.pop()
            step, closing = gen.send, False
        except BaseException as thrown:
            if gen.gi_running or was_taken(gen.gi_frame):
                stream.fail(thrown)
                raise
            value, step, closing = thrown, gen.throw, isinstance(thrown, GeneratorExit)
    stream.complete(box[0], closed=closing)
    return box.pop()


# `types.coroutine` marks the function that it is given, so it gets a copy
_follow_awaitable: Any = coroutine(FunctionType(follow.__code__, globals(), follow.__name__))


def follow_generator(gen: GeneratorType[Any, Any, Any], stream: Stream) -> Generator[Any, Any, Any]:
    """Follow `gen`; one that `types.coroutine` has made awaitable stays so."""
    if not gen.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return follow(gen, stream)
    stream.keep_result_alone()
    return cast(Generator[Any, Any, Any], _follow_awaitable(gen, stream))


async def follow_async(
    agen: AsyncGeneratorType[Any, Any], stream: Stream
) -> AsyncGenerator[Any, Any]:
    """Do the same for an async generator; a step may be cancelled, or never come back."""
    step: Callable[[Any], Any] = unhooked(agen)
    value: Any = None
    closing = False
    box: list[Any] = []
    stream.begin()
    while True:
        before = CURRENT.get()
        CURRENT.set(stream.inside)
        dropped = False
        try:
            box.append(await step(value))
        except StopAsyncIteration:
            break
        except BaseException as error:
            dropped = isinstance(error, GeneratorExit) and not closing
            stream.fail(error)
            raise
        finally:
            value = None
            if not dropped:  # else we are in whatever context the collector of garbage runs in
                stream.inside = CURRENT.get()
                CURRENT.set(before)
        stream.take(box[0])
        try:
            value = yield box.pop()
            step, closing = agen.asend, False
        except BaseException as thrown:
            if was_taken(agen.ag_frame):
                stream.fail(thrown)
                raise
            value, step, closing = thrown, agen.athrow, isinstance(thrown, GeneratorExit)
    stream.complete(closed=closing)


def was_taken(frame: FrameType | None) -> bool:
    """Tell whether a generator that waits for us has been closed, or is just being closed.

    Only the collector of garbage does so: a cycle falls apart in any order, and what the inner
    generator drops may have been the last reference to the outer one. To throw into one that is
    running would be an error nobody caused; CPython 3.10 and 3.11 may crash. 3.10 does not call
    running what unwinds, so a caller is looked for.
    """
    return frame is None or frame.f_back is not None


def unhooked(agen: AsyncGeneratorType[Any, Any]) -> Callable[[Any], Any]:
    """Return `asend` for the first step, of which the event loop learns nothing.

    It knows the outer generator, which closes the inner one; told of both, it would close both at
    its end, at once, and log that one of them is running already.
    """

    def first(value: Any) -> Any:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None if hooks.finalizer is None else _leave)
        try:
            return agen.asend(value)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    return first


def _leave(_: AsyncGenerator[Any, Any]) -> None:
    """Let a dropped generator be: what finalizes the outer one has decided about both."""


def follow_future(future: Any, link: Span | Session) -> None:
    """End `link` when a future that a function returned is done; the future stays the same."""
    future.add_done_callback(_Done(link))


class _Done:
    """What a future calls when it is done; one that nobody settles lets go of it undone."""

    __slots__ = ("_link",)

    def __init__(self, link: Span | Session) -> None:
        self._link = link

    def __call__(self, future: Any) -> None:
        from asyncio import CancelledError  # here: whoever made the future has loaded it

        if future.cancelled():
            self._link.end(error=CancelledError())
            return
        # not `exception()`: it would count as somebody having looked, and silence the loop
        error = getattr(future, "_exception", None)
        if error is None:
            self._link.end(future.result())
        else:
            self._link.end(error=error)

    def __del__(self) -> None:
        self._link.end()
