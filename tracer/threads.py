"""Threads and executors that start, or run a task, below what was current where they were asked.

What travels is our one variable, never the whole context. Three methods of the standard library
are replaced, once per process, for every tracer:

- `Thread.start` puts a `run` on the instance that takes itself off again before it calls the real
  one. That is the one public place where a thread's work begins, in every version and whatever a
  subclass overrides; `_bootstrap_inner` is private, and in 3.14 runs outside the context of `run`.
  From outside nothing differs once the thread runs but one more line in a traceback.
- `ThreadPoolExecutor.submit` hands in a callable that runs the task, and pickles as the task.
- `ProcessPoolExecutor.submit` hands in a function of this module, a carrier and the task.

When nothing is current all three do what they did.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from threading import Thread
from types import MethodType
from typing import Any

from tracer.carrier import Arrival, carrier_of
from tracer.context import CURRENT, Link, Suppress, innermost_open

__all__ = ["install", "uninstall"]

Method = Callable[..., Any]
Around = Callable[[Method, tuple[Any, ...], dict[str, Any], Link], Any]


def install() -> None:
    """Carry what is current into threads and executors from now on; again changes nothing."""
    _replace(Thread, "start", _start)
    if "__init_subclass__" not in vars(Executor):
        # The module of process pools loads multiprocessing, 20 to 40 ms that most programs do not
        # need: we wait until somebody defines the class.
        Executor.__init_subclass__ = _defined  # type: ignore[assignment]
    for (module, name), around in _POOLS.items():
        pool = getattr(sys.modules.get(module), name, None)
        if pool is not None:
            _replace(pool, "submit", around)


def uninstall() -> None:
    """Put the methods back; where somebody replaced them after us, ours stays and does nothing."""
    if vars(Executor).get("__init_subclass__") is _defined:
        del Executor.__init_subclass__
    for replaced in list(_replaced.values()):
        replaced.active = False
        if vars(replaced.owner).get(replaced.name) is replaced.method:
            setattr(replaced.owner, replaced.name, replaced.original)
            _replaced.pop((replaced.owner, replaced.name), None)


class _Replaced:
    """A method of a class, and what stands in its place."""

    def __init__(self, owner: type, name: str, around: Around) -> None:
        self.owner = owner
        self.name = name
        self.active = True
        self.original: Method = vars(owner)[name]
        original = self.original

        @functools.wraps(original)
        def method(self_: Any, /, *args: Any, **kwargs: Any) -> Any:
            link = innermost_open() if self.active else None
            if link is None:
                return original(self_, *args, **kwargs)
            return around(original, (self_, *args), kwargs, link)

        self.method: Method = method

    def is_in_place(self) -> bool:
        """Tell whether a call still reaches ours, also below what others put on top."""
        found = vars(self.owner).get(self.name)
        while found is not None and found is not self.method:
            found = getattr(found, "__wrapped__", None)
        return found is not None


_replaced: dict[tuple[type, str], _Replaced] = {}


def _replace(of: type, name: str, around: Around) -> None:
    owner = next(c for c in of.__mro__ if name in vars(c))  # gevent has a `Thread` of its own
    known = _replaced.get((owner, name))
    if known is not None and known.is_in_place():
        known.active = True
        return
    if known is not None:  # somebody put back what was there before us
        _replaced.pop((owner, name), None)
    new = _Replaced(owner, name, around)
    # no lock, which a fork could leave locked: threads that come together agree in one step
    if _replaced.setdefault((owner, name), new) is new:
        setattr(owner, name, new.method)


# -- threads -------------------------------------------------------------------------------------


def _start(original: Method, args: tuple[Any, ...], kwargs: dict[str, Any], link: Link) -> Any:
    thread: Thread = args[0]
    try:
        taken = _put_run(thread, link)
    except Exception:  # noqa: BLE001 - no thread as we know them: it starts without us
        taken = None
    try:
        return original(*args, **kwargs)
    except BaseException:
        if taken is not None:  # it did not start, and may be tried again
            taken()
        raise


def _put_run(thread: Thread, link: Link) -> Callable[[], None]:
    """Give `thread` a `run` that runs its own below `link`; return what takes it off again."""
    attributes = vars(thread)
    missing = object()
    before = attributes.get("run", missing)
    carried = [link]  # taken out by the thread, which may live for ever and shall keep nothing

    def take_off() -> None:
        if before is missing:
            attributes.pop("run", None)
        else:
            attributes["run"] = before

    def run(thread: Thread) -> None:
        take_off()
        link = carried.pop() if carried else None
        if CURRENT.get() is None:  # else the thread was given a context (3.14)
            CURRENT.set(link)
        del link
        thread.run()

    # a bound method, because others who wrap `run` look for its `__func__`
    attributes["run"] = MethodType(run, thread)
    return take_off


# -- executors -----------------------------------------------------------------------------------


class _Carried:
    """A task for another thread; to another process it goes as the bare task."""

    __slots__ = ("_link", "_task")

    def __init__(self, task: Callable[..., Any], link: Link) -> None:
        self._task = task
        self._link = link

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        before = CURRENT.get()
        try:
            CURRENT.set(self._link)
            return self._task(*args, **kwargs)
        finally:
            CURRENT.set(before)

    def __reduce__(self) -> tuple[Any, ...]:
        return _bare, (self._task,)


def _bare(task: Callable[..., Any]) -> Callable[..., Any]:
    return task


def _submit_to_thread(
    original: Method, args: tuple[Any, ...], kwargs: dict[str, Any], link: Link
) -> Any:
    executor, *rest = args
    if rest:  # else `submit` says what is missing
        rest[0] = _Carried(rest[0], link)
    return _outside(original, executor, rest, kwargs)


def _submit_to_process(
    original: Method, args: tuple[Any, ...], kwargs: dict[str, Any], link: Link
) -> Any:
    executor, *rest = args
    if rest:
        try:
            rest = [_run_carried, carrier_of(link), *rest]
        except Exception:  # noqa: BLE001 - ours: the task goes as it is
            rest = list(args[1:])
    return _outside(original, executor, rest, kwargs)


def _outside(original: Method, executor: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Submit with nothing current: workers that start now, or are forked, serve later tasks too."""
    before = CURRENT.get()
    try:
        CURRENT.set(None)
        return original(executor, *args, **kwargs)
    finally:
        CURRENT.set(before)


def _run_carried(
    carrier: Mapping[str, str] | None, task: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Run a task of a process pool, in the worker."""
    with Suppress() if carrier is None else Arrival(carrier):
        return task(*args, **kwargs)


_POOLS: dict[tuple[str, str], Around] = {
    ("concurrent.futures.thread", "ThreadPoolExecutor"): _submit_to_thread,
    ("concurrent.futures.process", "ProcessPoolExecutor"): _submit_to_process,
}


@classmethod  # type: ignore[misc]  # it becomes the one of `Executor`
def _defined(cls: type[Executor], **kwargs: Any) -> None:
    super(Executor, cls).__init_subclass__(**kwargs)
    around = _POOLS.get((cls.__module__, cls.__qualname__))
    if around is not None:
        _replace(cls, "submit", around)
