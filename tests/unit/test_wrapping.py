"""A callable of any kind becomes one of the same kind: whatever looks at it sees what it saw."""

from __future__ import annotations

import abc
import asyncio
import copy
import dataclasses
import enum
import functools
import inspect
import os
import pickle
import typing
import weakref
from collections import abc as kinds
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast

import cloudpickle  # type: ignore[import-untyped]  # it has no types
import pytest
from journal import events, local_tracer, sessions

from tracer.callables import by_name, travels
from tracer.context import CURRENT
from tracer.tracer import Tracer
from tracer.wrapping import name_of, wrap

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    CURRENT.set(None)
    with local_tracer(tmp_path) as running:
        yield running
    assert CURRENT.get() is None, "something was left current"


def names(tracer: Tracer) -> list[str]:
    return sorted(event["event_name"] for event in events(tracer))


def function(x: int, y: int = 1) -> int:
    """Add."""
    return x + y


async def coroutine(x: int, y: int = 1) -> int:
    """Add."""
    return x + y


def generator(x: int, y: int = 1) -> Iterator[int]:
    """Add."""
    yield x + y


async def async_generator(x: int, y: int = 1) -> AsyncIterator[int]:
    """Add."""
    yield x + y


FUNCTIONS = [function, coroutine, generator, async_generator]
KINDS: list[Callable[[Any], bool]] = [
    inspect.isfunction,
    inspect.isroutine,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
    inspect.iscoroutinefunction,
    inspect.ismethoddescriptor,
    inspect.isbuiltin,
    inspect.isclass,
    callable,
]


@pytest.fixture(params=FUNCTIONS, ids=lambda func: func.__name__)
def func(request: pytest.FixtureRequest) -> Any:
    return request.param


def kinds_of(found: Any) -> list[str]:
    return [kind.__name__ for kind in KINDS if kind(found)]


# -- functions -----------------------------------------------------------------------------------


def test_a_function_of_each_kind_looks_as_it_did(tracer: Tracer, func: Any) -> None:
    made: Any = tracer.tool(func)
    assert made is not func
    assert made.__wrapped__ is func
    assert kinds_of(made) == kinds_of(func)
    assert kinds_of(functools.partial(made)) == kinds_of(functools.partial(func))
    assert inspect.signature(made) == inspect.signature(func)
    evaluated = inspect.signature(made, eval_str=True)
    assert evaluated == inspect.signature(func, eval_str=True)
    assert typing.get_type_hints(made) == typing.get_type_hints(func)
    assert inspect.getsource(made) == inspect.getsource(func)
    assert inspect.getdoc(made) == "Add."
    assert set(dir(made)) == {*dir(func), "__wrapped__"}
    assert repr(made).partition(" at ")[0] == repr(func).partition(" at ")[0]


def test_a_function_of_each_kind_is_itself_and_no_other(tracer: Tracer, func: Any) -> None:
    made, other = tracer.tool(func), tracer.tool(func)
    assert made == made  # noqa: PLR0124 - its own `__eq__` is what is asked
    assert made != other
    assert made != func
    assert {made: 1, other: 2, func: 3} == {made: 1, other: 2, func: 3}
    assert len({made, other, func}) == 3
    assert weakref.ref(made)() is made


def test_a_method_of_each_kind_is_one(tracer: Tracer, func: Any) -> None:
    class Owner:
        method = tracer.tool(func)

    owner = Owner()
    bound: Any = owner.method
    assert inspect.ismethod(bound)
    assert bound.__self__ is owner
    assert bound.__func__ is Owner.method is vars(Owner)["method"]
    assert bound == owner.method
    assert hash(bound) == hash(owner.method)
    assert weakref.WeakMethod(bound)() == bound
    assert list(inspect.signature(bound).parameters) == ["y"]


def test_attributes_can_be_set_and_deleted(tracer: Tracer, func: Any) -> None:
    made: Any = tracer.tool(func)
    made.role = "admin"
    assert vars(made)["role"] == "admin"
    assert not hasattr(func, "role")
    del made.role
    assert not hasattr(made, "role")


def test_what_a_renamed_function_makes_has_its_new_name(tracer: Tracer) -> None:
    def steps() -> Iterator[int]:
        yield 1

    made: Any = tracer.tool(steps)
    made.__name__, made.__qualname__ = "renamed", "Owner.renamed"
    assert (made().__name__, made().__qualname__) == ("renamed", "Owner.renamed")


def test_a_decorator_over_ours_may_say_what_it_wraps(tracer: Tracer) -> None:
    """`wraps` sets `__wrapped__`, which says nothing about what our object does."""

    def other(x: int) -> str:
        return ""

    other.role = "admin"  # type: ignore[attr-defined]  # what `wraps` copies
    made: Any = functools.wraps(other)(tracer.tool(generator))
    assert (made.__name__, made.__wrapped__, made.role) == ("other", other, "admin")
    assert generator.__name__ == "generator"
    again = tracer.chain(made)
    assert inspect.isgeneratorfunction(again)
    assert list(again(1)) == [2]


def test_a_function_is_its_own_copy(tracer: Tracer, func: Any) -> None:
    made = tracer.tool(func)
    assert copy.copy(made) is copy.deepcopy([made])[0] is made


def test_partialmethod_takes_any_kind(tracer: Tracer, func: Any) -> None:
    def owner_of(func: Any) -> Any:
        return type("Owner", (), {"method": functools.partialmethod(func, 2)})()

    plain, made = owner_of(func).method, owner_of(tracer.tool(func)).method
    assert inspect.signature(made) == inspect.signature(plain)
    assert kinds_of(made) == kinds_of(plain)


def test_singledispatch_works_over_and_under_ours(tracer: Tracer) -> None:
    @tracer.tool
    @functools.singledispatch
    def told(value: object) -> str:
        return "object"

    register: Any = cast(Any, told).register

    @register  # type: ignore[untyped-decorator]  # of a function that mypy takes for a plain one
    @tracer.tool
    def _told_int(value: int) -> str:
        return "int"

    @functools.singledispatch
    @tracer.tool
    def steps(value: object) -> Iterator[str]:
        yield "object"

    @steps.register
    @tracer.tool
    def _steps_int(value: int) -> Iterator[str]:
        yield "int"

    assert (told(1), told("")) == ("int", "object")
    assert (list(steps(1)), list(steps(""))) == (["int"], ["object"])
    assert cast(Any, told).dispatch(int) is _told_int
    assert names(tracer) == ["_steps_int", "_told_int", "steps", "told", "told"]


def test_singledispatchmethod_finds_what_was_registered(tracer: Tracer) -> None:
    class Owner:
        @functools.singledispatchmethod
        @tracer.tool
        def told(self, value: object) -> str:
            return "object"

        @told.register
        @tracer.tool
        def _(self, value: int) -> str:
            return "int"

    assert (Owner().told(1), Owner().told("")) == ("int", "object")
    assert len(events(tracer)) == 2


# -- static and class methods --------------------------------------------------------------------


class Marked(staticmethod):  # type: ignore[type-arg]  # 3.10 takes no parameter at run time
    """A static method that knows more, and wants it from whoever makes it."""

    def __init__(self, func: Callable[..., Any], mark: str) -> None:
        super().__init__(func)
        self.mark = mark


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
@pytest.mark.parametrize("whole_class", [True, False])
def test_what_others_left_on_a_static_or_class_method_stays(
    tracer: Tracer, kind: Any, *, whole_class: bool
) -> None:
    method = kind(lambda *_: 1)
    method.__final__ = method.__override__ = True  # what typing does; before 3.11 it does nothing
    if whole_class:
        decorated = tracer.tool(type("Owner", (), {"method": method}))
        made = vars(decorated)["method"]
    else:
        made = tracer.tool(method)
        decorated = type("Owner", (), {"method": made})
    assert type(made) is kind
    assert (made.__final__, made.__override__) == (True, True)
    assert made.__wrapped__ is made.__func__ is not method.__func__
    assert cast(Any, decorated).method() == 1
    assert len(events(tracer)) == 1


@pytest.mark.parametrize("whole_class", [True, False])
def test_a_subclass_of_staticmethod_keeps_type_and_state(
    tracer: Tracer, *, whole_class: bool
) -> None:
    method = Marked(lambda: 1, "m")
    made: Any = (
        vars(tracer.tool(type("Owner", (), {"method": method})))["method"]
        if whole_class
        else tracer.tool(method)
    )
    assert (type(made), made.mark) == (Marked, "m")
    assert made.__func__() == 1
    assert len(events(tracer)) == 1


def test_abstract_methods_stay_abstract(tracer: Tracer) -> None:
    class Base(abc.ABC):
        @tracer.tool
        @abc.abstractmethod
        def under(self) -> int: ...

        @abc.abstractmethod
        @tracer.tool
        def over(self) -> Iterator[int]:
            yield 1

        @tracer.tool
        @staticmethod
        @abc.abstractmethod
        def static() -> int: ...

        @classmethod
        @tracer.tool
        @abc.abstractmethod
        async def of(cls) -> int: ...

        @abc.abstractmethod
        def whole(self) -> int: ...

    expected = {"under", "over", "static", "of", "whole"}
    assert Base.__abstractmethods__ == expected
    assert tracer.tool(Base) is Base
    assert Base.__abstractmethods__ == expected
    assert all(cast(Any, vars(Base)[name]).__isabstractmethod__ for name in expected)
    with pytest.raises(TypeError, match="abstract"):
        cast(Any, Base)()


# -- classes -------------------------------------------------------------------------------------


def test_a_dataclass_stays_one(tracer: Tracer) -> None:
    @tracer.tool
    @dataclasses.dataclass(frozen=True, order=True)
    class Point:
        x: int
        y: int = 2

        def total(self) -> int:
            return self.x + self.y

        def steps(self) -> Iterator[int]:
            yield self.x

    assert (Point(1), Point(1).total(), list(Point(1).steps())) == (Point(1, 2), 3, [1])
    assert dataclasses.replace(Point(1), y=5) > Point(1)
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 2}
    assert str(inspect.signature(Point)) == "(x: 'int', y: 'int' = 2) -> None"
    assert names(tracer) == ["Point.steps", "Point.total"]


def test_a_class_with_slots_keeps_them(tracer: Tracer) -> None:
    class Base:
        __slots__ = ("__weakref__", "x")

        def set(self, x: int) -> int:
            self.x = x
            return self.x

    @tracer.tool
    @dataclasses.dataclass(slots=True)
    class Derived(Base):
        y: int = 1

        def set(self, x: int) -> int:
            return Base.set(self, x) + self.y

    tracer.tool(Base)
    made = Derived()
    assert made.set(2) == 3
    assert not hasattr(made, "__dict__")
    assert weakref.ref(made)() is made
    assert names(tracer) == ["Base.set", "Derived.set"]


def test_an_enum_stays_one(tracer: Tracer) -> None:
    @tracer.tool
    class Color(enum.Flag):
        RED = 1
        BLUE = 2

        def told(self) -> int:
            return self.value

        @classmethod
        def of(cls) -> Color:
            return cls.BLUE

        @staticmethod
        def first() -> int:
            return 1

    assert list(Color) == [Color.RED, Color.BLUE]
    assert (Color.RED.told(), Color.of(), Color.first()) == (1, Color.BLUE, 1)
    assert Color(2) is Color["BLUE"] is Color.BLUE
    assert (Color.RED | Color.BLUE).told() == 3
    assert names(tracer) == ["Color.first", "Color.of", "Color.told", "Color.told"]


def test_a_protocol_stays_one(tracer: Tracer) -> None:
    @tracer.tool
    @typing.runtime_checkable
    class Named(Protocol):
        def told(self) -> str:
            return "default"

        @abc.abstractmethod
        def steps(self) -> Iterator[int]: ...

    class Other:
        def told(self) -> str:
            return "other"

        def steps(self) -> Iterator[int]:
            return iter(())

    class Derived(Named):
        def steps(self) -> Iterator[int]:
            return iter(())

    assert isinstance(Other(), Named)
    assert issubclass(Other, Named)
    assert not isinstance(1, Named)
    assert Derived().told() == "default"
    assert names(tracer) == ["Named.told"]


def test_a_named_tuple_stays_one(tracer: Tracer) -> None:
    @tracer.tool
    class Pair(NamedTuple):
        a: int
        b: int = 2

        def total(self) -> int:
            return self.a + self.b

        def steps(self) -> Iterator[int]:
            yield from self

    made = Pair(1)
    assert (made, made.total(), list(made.steps())) == ((1, 2), 3, [1, 2])
    assert (Pair._fields, Pair._make([3, 4]), made._replace(a=5)) == (("a", "b"), (3, 4), (5, 2))
    assert names(tracer) == ["Pair.steps", "Pair.total"]


def test_metaclasses_and_subclass_hooks_run_as_they_did(tracer: Tracer) -> None:
    seen: list[Any] = []

    class Meta(type):
        def __setattr__(cls, name: str, value: object) -> None:
            seen.append(name)
            super().__setattr__(name, value)

        def told(cls) -> str:
            return cls.__name__

    class Base(metaclass=Meta):
        def __init_subclass__(cls, **given: int) -> None:
            super().__init_subclass__()
            seen.append(given)

        def own(self) -> str:
            return cast(str, __class__.__name__)  # type: ignore[name-defined]  # the cell of the class

        def steps(self) -> Iterator[str]:
            yield super().__getattribute__("own")()

    assert tracer.tool(Base) is Base

    @tracer.tool
    class Derived(Base, given=1):
        def own(self) -> str:
            return "derived " + super().own()

    assert seen == ["own", "steps", {"given": 1}, "own"]
    assert (Derived.told(), Derived().own(), list(Derived().steps())) == (
        "Derived",
        "derived Base",
        ["derived Base"],
    )
    assert names(tracer) == ["Base.own", "Base.own", "Base.steps", "Derived.own", "Derived.own"]


def test_a_generic_class_stays_one(tracer: Tracer) -> None:
    @tracer.tool
    class Box(Generic[T]):
        def __init__(self, held: T) -> None:
            self.held = held

        def get(self) -> T:
            return self.held

    assert Box[int](1).get() == 1
    assert typing.get_args(Box[int]) == (int,)
    assert names(tracer) == ["Box.get"]


def test_what_is_no_public_method_is_left_alone(tracer: Tracer) -> None:
    class Owner:
        class Inner:
            def method(self) -> None: ...

        attribute = functools.partial(function, 1)
        method = functools.partialmethod(function)

        def _private(self) -> None: ...

        def __len__(self) -> int:
            return 3

        @property
        def read(self) -> int:
            return 1

        @functools.cached_property
        def kept(self) -> object:
            return object()

    before = dict(vars(Owner))
    made = tracer.tool(Owner)()
    assert {n: v for n, v in vars(Owner).items() if v is not before.get(n)} == {}
    assert made.read == 1
    assert made.kept is made.kept
    assert len(made) == 3
    assert events(tracer) == []


# -- objects -------------------------------------------------------------------------------------


class Plain:
    """Has nothing but a call."""

    def __call__(self, x: int = 1) -> int:
        return x


class Rich:
    """Has everything that is looked up on the type."""

    def __init__(self) -> None:
        self.stock = 1

    def __call__(self) -> int:
        return self.stock

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2, 3))

    def __getitem__(self, at: int) -> int:
        return at

    def __add__(self, other: int) -> int:
        return self.stock + other

    def __iadd__(self, other: int) -> Self:
        self.stock += other
        return self

    def __eq__(self, other: object) -> bool:
        return other == 1

    __hash__ = None  # type: ignore[assignment]  # as Python itself does where `__eq__` is

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stock = -1

    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(self, *_: object) -> None: ...

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        raise StopAsyncIteration

    def __fspath__(self) -> str:
        return "/rich"

    def __repr__(self) -> str:
        return "<rich>"


ABCS = [
    *(getattr(kinds, name) for name in kinds.__all__ if name != "ByteString"),
    os.PathLike,
    typing.SupportsInt,
    typing.SupportsIndex,
]


@pytest.mark.parametrize("made", [Plain, Rich])
def test_an_object_is_an_instance_of_what_it_was(tracer: Tracer, made: Any) -> None:
    plain: Any = made()
    decorated: Any = tracer.tool(plain)
    assert [k for k in ABCS if isinstance(decorated, k)] == [
        k for k in ABCS if isinstance(plain, k)
    ]
    assert isinstance(decorated, made)
    assert decorated.__class__ is made
    assert decorated.__wrapped__ is plain
    assert set(dir(decorated)) == set(dir(plain))
    special = {name for name in dir(type(decorated)) if name.startswith("__")}
    assert {n for n in special - {*dir(object)} if n not in dir(made)} <= {
        *("__copy__", "__deepcopy__", "__slots__"),
        *("__dict__", "__weakref__", "__annotations__", "__firstlineno__", "__static_attributes__"),
    }
    assert repr(decorated) == repr(plain)
    assert str(decorated) == str(plain)
    assert inspect.signature(decorated) == inspect.signature(plain)


def test_what_is_looked_up_on_the_type_is_found(tracer: Tracer) -> None:
    made: Any = tracer.tool(Rich())
    assert (len(made), list(made), made[5], made + 1) == (3, [1, 2, 3], 5, 2)
    assert (bool(made), made == 1, os.fspath(made)) == (False, True, "/rich")
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)
    same = made
    same += 2
    assert same is made
    with made as entered:
        assert entered is made
        assert made() == 3
    assert made.stock == -1

    async def main() -> str:
        async for _ in made:
            raise AssertionError
        async with made as entered:
            return cast(str, entered)

    assert asyncio.run(main()) == "entered"
    assert len(events(tracer)) == 1


def test_what_an_object_has_not_is_not_there(tracer: Tracer) -> None:
    made: Any = tracer.tool(Plain())
    for use in (len, iter, next, int, lambda it: it[0], lambda it: it + 1):
        with pytest.raises(TypeError):
            use(made)
    assert not [n for n in ("__len__", "__iter__", "__get__", "__name__") if hasattr(made, n)]
    assert hash(made) == hash(made.__wrapped__)
    assert made
    made.role = 1
    assert vars(made.__wrapped__) == {"role": 1}
    del made.role
    assert not hasattr(made, "role")
    assert weakref.ref(made)() is made


class Field:
    """A descriptor that can be called, and is told where it is."""

    name = "nobody said"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else ("read", self.name)

    def __call__(self) -> int:
        return 1


class Settable(Field):
    def __set__(self, instance: Any, value: object) -> None:
        vars(instance)["set"] = value

    def __delete__(self, instance: Any) -> None:
        vars(instance)["deleted"] = True


def test_a_descriptor_stays_one(tracer: Tracer) -> None:
    class Owner:
        field: Any = tracer.tool(cast(Any, Field()))
        settable: Any = tracer.tool(cast(Any, Settable()))

    owner = Owner()
    assert (Owner.field.name, owner.field, owner.settable) == (
        "field",
        ("read", "field"),
        ("read", "settable"),
    )
    assert Owner.field is vars(Owner)["field"]
    owner.settable = 3
    del owner.settable
    owner.field = 4
    assert vars(owner) == {"set": 3, "deleted": True, "field": 4}
    assert (Owner.field(), Owner.settable()) == (1, 1)
    assert names(tracer) == ["Field", "Settable"]


def test_a_partial_is_one(tracer: Tracer) -> None:
    made: Any = tracer.tool(functools.partial(function, 5, y=2))
    assert isinstance(made, functools.partial)
    assert (made.func, made.args, made.keywords) == (function, (5,), {"y": 2})
    assert inspect.signature(made) == inspect.signature(functools.partial(function, 5, y=2))
    assert (made(), functools.partial(made, y=3)()) == (7, 8)
    assert names(tracer) == ["function", "function"]


def test_functions_in_c_and_caches_are_what_they_were(tracer: Tracer) -> None:
    length: Any = tracer.tool(len)
    assert inspect.isbuiltin(length)
    assert (length([1]), tracer.tool(str.upper)("a"), tracer.tool("-".join)("ab")) == (
        1,
        "A",
        "a-b",
    )
    cached: Any = tracer.tool(functools.lru_cache(function))
    assert (cached(1), cached(1)) == (2, 2)
    assert cached.cache_info().hits == 1
    assert names(tracer) == ["function", "function", "join", "len", "upper"]


# -- copies and pickles --------------------------------------------------------------------------


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


def cloudpickled(value: Any) -> Any:
    return pickle.loads(cloudpickle.dumps(value))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled, cloudpickled])
@pytest.mark.parametrize("way", ["tool", "session"])
@pytest.mark.parametrize(
    "target", [Plain(), functools.partial(function, 1)], ids=["object", "partial"]
)
def test_a_copy_of_a_decorated_object_is_decorated(
    tracer: Tracer, again: Callable[[Any], Any], way: str, target: Any
) -> None:
    made = getattr(tracer, way)("named")(target)
    other = again(made)
    assert type(other.__wrapped__) is type(target)
    assert other.__wrapped__ is not target
    assert other() == target()
    copied = again in (
        copy.copy,
        copy.deepcopy,
    )  # a tracer does not travel, but it is no other here
    assert names(tracer) == ["named"] * (copied and way == "tool")
    opened = [session["session_name"] for session in sessions(tracer)]
    assert ("named" in opened) == (copied and way == "session")


@pytest.mark.parametrize("option", ["process_inputs", "process_outputs", "reduce"])
def test_an_object_is_pickled_also_where_the_function_of_an_option_is_not(
    tracer: Tracer, option: str
) -> None:
    options: dict[str, Any] = {option: lambda _: None}
    other: Any = pickled(tracer.tool(**options)(cast(Any, Plain())))
    assert type(other) is Plain  # rather undecorated than what records what it must not
    options = {option: str}
    assert pickled(tracer.tool(**options)(cast(Any, Plain()))).__wrapped__(2) == 2


def test_what_a_decorator_was_given_travels_if_every_pickler_takes_it(tracer: Tracer) -> None:
    def local() -> None: ...

    yes = [
        None,
        1,
        "a",
        b"",
        (1, [2.5, {"a": True}]),
        frozenset("a"),
        function,
        len,
        Plain,
        Path.is_dir,
    ]
    no = [local, lambda: None, Plain(), object(), [1, local], {"a": (local,)}, Plain().__call__]
    assert [travels(value) for value in yes] == [True] * len(yes)
    assert [travels(value) for value in no] == [False] * len(no)
    assert by_name(function) is function
    assert by_name(tracer.tool(function)) is function


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_pickled_tracer_is_switched_off_and_holds_no_key(
    dumps: Callable[[Any], bytes],
) -> None:
    key = "hh_canary_0123456789"
    tracer = Tracer(api_key=key, server_url="http://127.0.0.1:9", durable=False)
    try:
        made = tracer.tool(function), tracer.chain(generator)
        blocks = tracer.chain("block"), tracer.session("session")
        with blocks[0], blocks[1]:  # open here, and nowhere else
            data = dumps((tracer, tracer.chain, *blocks))
        assert key.encode() not in data
        assert key.encode() not in cloudpickle.dumps(made)
        there, chain, block, session = pickle.loads(data)  # noqa: S301 - our own bytes
        assert there.config.disable_tracing
        assert chain.source is there.chain.source
        assert there.tool(function)(1) == chain(function)(1) == 2
        with block as span, session:
            assert span.id == ""
        assert there.stats().recorded == 0
        assert copy.copy(tracer) is copy.deepcopy([tracer])[0] is tracer
        assert copy.deepcopy(tracer.chain).source is tracer.chain.source
    finally:
        tracer.shutdown(0)


def test_a_function_that_a_module_has_by_another_name_is_refused_as_it_was(
    tracer: Tracer, func: Any
) -> None:
    ways: list[Callable[[Any], Any]] = [lambda it: it, tracer.tool]
    for undecorated_or_not in ways:

        def local() -> Iterator[int]:
            yield 1

        with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
            pickle.dumps(undecorated_or_not(local))
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(tracer.tool(func))


# -- what is told --------------------------------------------------------------------------------


def test_an_event_is_named_after_what_is_called(tracer: Tracer) -> None:
    nested = functools.partial(functools.partial(function))
    assert [name_of(it) for it in (function, nested, Plain(), len, Plain().__call__)] == [
        "function",
        "function",
        "Plain",
        "len",
        "__call__",
    ]
    odd = Plain()
    odd.__name__ = 3  # type: ignore[attr-defined]  # whatever an object says
    assert name_of(odd) == "Plain"


@pytest.mark.parametrize(
    "it", [None, 1, "text", property(function), functools.partialmethod(function)], ids=repr
)
def test_what_cannot_be_called_is_refused(tracer: Tracer, it: Any) -> None:
    with pytest.raises(TypeError, match="functions, classes and other callables"):
        wrap(it, cast(Any, None))
