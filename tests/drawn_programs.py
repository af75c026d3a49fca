"""Small programs drawn from bytes, as Python source: what a decorator must not change.

Every program defines `target`, a callable of one flavor (what a call gives) in one shape (what
kind of object is decorated, and where the decorator stands). All names it uses but `functools`
and `sys` are those of a `World`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["ERRORS", "FLAVORS", "SHAPES", "Draw", "Program", "innermost_runs_inside"]

V = TypeVar("V")

FLAVORS = ("function", "coroutine", "generator", "async generator", "awaitable")
ASYNC = ("coroutine", "async generator")
YIELDS = ("generator", "async generator")

# what programs raise, throw and catch
ERRORS = (
    "ValueError",
    "KeyError",
    "Trouble",
    "StopIteration",
    "GeneratorExit",
    "CancelledError",
    "KeyboardInterrupt",
    "StopAsyncIteration",
    "RuntimeError",
    "TimeoutError",
    "SystemExit",
)
CATCHES = ("ValueError", "Exception", "BaseException", "GeneratorExit", "CancelledError", "Trouble")

# {} is the decorated function's head, {+} and its body follows; `deco` is ours, or nothing at all
SHAPES = {
    "function": """\
@deco
{def} body(arg, flag=True, *, extra=None):
{+}
target = body""",
    "method": """\
class Owner:
    @deco
    {def} body(self, arg, flag=True, *, extra=None):
    {+}
target = Owner().body""",
    "inherited method": """\
class Base:
    @deco
    {def} body(self, arg, flag=True, *, extra=None):
    {+}
class Owner(Base):
    def body(self, arg, *rest, **named):
        return super().body(arg, *rest, **named)
target = Owner().body""",
    "staticmethod inside": """\
class Owner:
    @staticmethod
    @deco
    {def} body(arg, flag=True, *, extra=None):
    {+}
target = Owner().body""",
    "staticmethod outside": """\
class Owner:
    @deco
    @staticmethod
    {def} body(arg, flag=True, *, extra=None):
    {+}
target = Owner.body""",
    "classmethod inside": """\
class Owner:
    @classmethod
    @deco
    {def} body(cls, arg, flag=True, *, extra=None):
    {+}
target = Owner().body""",
    "classmethod outside": """\
class Owner:
    @deco
    @classmethod
    {def} body(cls, arg, flag=True, *, extra=None):
    {+}
target = Owner.body""",
    "class": """\
@deco
class Owner:
    {def} body(self, arg, flag=True, *, extra=None):
    {+}
target = Owner().body""",
    "callable object": """\
class Owner:
    {def} __call__(self, arg, flag=True, *, extra=None):
    {+}
target = deco(Owner())""",
    "partial": """\
{def} body(first, arg, flag=True, *, extra=None):
{+}
target = deco(functools.partial(body, 1, extra=2))""",
    "bound method": """\
class Owner:
    {def} body(self, arg, flag=True, *, extra=None):
    {+}
target = deco(Owner().body)""",
    "over a foreign decorator": """\
@deco
@stranger
{def} body(arg, flag=True, *, extra=None):
{+}
target = body""",
    "under a foreign decorator": """\
@stranger
@deco
{def} body(arg, flag=True, *, extra=None):
{+}
target = body""",
}

# a plain function that returns something to await, made by a coroutine function below it
AWAITABLES = ("coroutine", "future", "task", "object", "generator")
RETURNS = {
    "coroutine": "return later(arg)",
    "future": "return promised(later(arg))",
    "task": "return asyncio.ensure_future(later(arg))",
    "object": "return Awaitable(later(arg))",
    "generator": "return awaited_generator(later(arg))",
}


class Draw:
    """Decisions taken from bytes; where these end, each is the first, the simplest choice."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def below(self, bound: int) -> int:
        return next(self._left, 0) % bound

    def one_of(self, choices: Sequence[V]) -> V:
        return choices[self.below(len(choices))]


def innermost_runs_inside(flavor: str, shape: str, awaitable: str) -> bool:
    """Tell whether the body runs while ours is open: not when only a handle was returned."""
    if flavor == "awaitable":
        return awaitable == "coroutine"
    return not (shape == "over a foreign decorator" and flavor in YIELDS)


class Program:
    """The source of one program. `awaitable` says what an awaitable one returns."""

    def __init__(self, draw: Draw, flavor: str, shape: str) -> None:
        self._draw = draw
        self.flavor, self.shape = flavor, shape
        self.awaitable = draw.one_of(AWAITABLES) if flavor == "awaitable" else ""
        self._lines: list[str] = []
        self.blocks = 0
        self._async = flavor in ASYNC or flavor == "awaitable"
        self._yields = flavor in YIELDS
        self.source = self._rendered()

    def _rendered(self) -> str:
        self._line(1, "begun()")
        self._block(1, "call", catching=False, looping=False)
        if self._yields:
            self._line(1, "if not flag: yield")  # makes it a generator, whatever was drawn
        body, head = self._lines, "async def" if self.flavor in ASYNC else "def"
        before: list[str] = []
        if self.flavor == "awaitable":
            before = ["async def later(arg, flag=True):", *body]
            body = [f"    {RETURNS[self.awaitable]}"]
        found = list(before)
        for line in SHAPES[self.shape].splitlines():
            if line.strip() == "{+}":
                indent = line[: line.index("{")]
                found += [indent + inner for inner in body]
            else:
                found.append(line.replace("{def}", head))
        return "\n".join(found) + "\n"

    def _line(self, depth: int, text: str) -> None:
        self._lines.append("    " * depth + text)

    def _block(self, depth: int, within: str, *, catching: bool, looping: bool) -> None:
        count = self._draw.below(4) if depth == 1 else 1 + self._draw.below(3)
        for _ in range(count):
            self._statement(depth, within, catching=catching, looping=looping)
        if not count:
            self._line(depth, "pass")

    def _statement(self, depth: int, within: str, *, catching: bool, looping: bool) -> None:
        draw = self._draw
        ways = ["simple"]
        if self._yields:
            ways += ["yield"] * 3
        if self._async:
            ways += ["await"] * 2
        if depth < 4:
            ways += ["try"] * 3 + ["with", "loop"]
        ways += ["leave"]
        way = draw.one_of(ways)
        if way == "simple":
            self._line(depth, self._simple(within))
        elif way == "yield":
            self._line(depth, self._yield())
        elif way == "await":
            self._line(depth, self._await())
        elif way == "try":
            self._try(depth, within, looping=looping)
        elif way == "with":
            self._with(depth, catching=catching, looping=looping)
        elif way == "loop":
            self._line(depth, "for _ in range(2):")
            self._block(depth + 1, within, catching=catching, looping=True)
        else:
            self._line(depth, self._leave(catching=catching, looping=looping))

    def _simple(self, within: str) -> str:
        number = self._draw.below(3)
        return self._draw.one_of(
            (
                f"saw({number})",
                f"inside({within!r})",
                f"saw(nested({number}))",
                "saw(sys.exc_info()[1])",
                f"foreign.set({number})",
                f"arg.append({number})",
                "reenter()",
                f"saw(list(nested_generator({number})))",
                "saw(locals().get('caught'))",
                f"saw(fails({self._error()}))",
            )
        )

    def _yield(self) -> str:
        number = self._draw.below(3)
        ways = [f"yield thing({number})", f"saw((yield thing({number})))", "yield fresh()"]
        ways += ["saw((yield))", "yield arg", "yield 'text'"]
        if self.flavor == "generator":
            ways += [f"saw((yield from relay({number})))"]
        return self._draw.one_of(ways)

    def _await(self) -> str:
        number = self._draw.below(3)
        return self._draw.one_of(
            (
                "await asyncio.sleep(0)",
                "await asyncio.sleep(5)",
                f"saw(await nested_coroutine({number}))",
                f"spawn({number})",
                f"saw([found async for found in nested_stream({number})])",
                f"saw(await asyncio.wait_for(asyncio.sleep({number}, 'slept'), 1.5))",
                "await finish_spawned()",
                f"await bare({number})",
            )
        )

    def _try(self, depth: int, within: str, *, looping: bool) -> None:
        draw = self._draw
        self._line(depth, "try:")
        self._block(depth + 1, within, catching=False, looping=looping)
        way = draw.below(4)
        if way < 3:
            self._line(depth, f"except {draw.one_of(CATCHES)} as caught:")
            self._line(depth + 1, "saw(caught)")
            self._block(depth + 1, within, catching=True, looping=looping)
        if way >= 2:
            self._line(depth, "finally:")
            # to leave by `break` or `return` here is a warning since 3.14
            self._block(depth + 1, within, catching=False, looping=False)

    def _with(self, depth: int, *, catching: bool, looping: bool) -> None:
        self.blocks += 1
        name = f"block {self.blocks}"
        kind = self._draw.one_of(("block", "block_session"))
        word = self._draw.one_of(("with", "async with")) if self._async else "with"
        self._line(depth, f"{word} {kind}({name!r}):")
        self._block(depth + 1, name, catching=catching, looping=looping)

    def _leave(self, *, catching: bool, looping: bool) -> str:
        draw = self._draw
        number = draw.below(3)
        value = "" if self.flavor == "async generator" else f" thing({number})"
        fresh = "" if self.flavor == "async generator" else " fresh()"
        ways = [f"return{value}", f"raise {self._error()}", f"return{fresh}"]
        ways += [f"raise {self._error()} from {self._error()}", f"raise {self._error()} from None"]
        if catching:
            ways += ["raise", "raise caught", f"raise {self._error()} from caught"]
        if looping:
            ways += ["break", "continue"]
        return draw.one_of(ways)

    def _error(self) -> str:
        return f"error({self._draw.one_of(ERRORS)!r})"
