"""What functions use, and functions and classes as arguments: they are there what they are here."""

from __future__ import annotations

import abc
import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import email.mime.text
import enum
import functools
import logging
import operator
import os
import os.path as path_of
import pathlib
import random
import re
import threading
import typing
import unittest.mock
import urllib.request
import xml.dom.minidom
from collections.abc import Callable, Iterator
from random import randint
from typing import Any, NamedTuple, Optional
from xml.dom import minidom as aliased

import numpy as np
import pytest
from farside import FlameServer

import flame
from flame_kernel.errors import CannotTravel
from flame_kernel.remote.remote import Remote

FACTOR = 4


def times(x: int) -> int:
    return x * FACTOR


Pair = collections.namedtuple("Pair", "x y", defaults=[5])  # noqa: PYI024
Colour = enum.Enum("Colour", "RED GREEN")  # type: ignore[misc]


class Named(NamedTuple):
    a: int
    b: str = "z"


class Shade(enum.IntEnum):
    DARK = 1
    LIGHT = 2


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: NotImported = 3  # type: ignore[name-defined]  # noqa: F821
    z: list[int] = dataclasses.field(default_factory=list)
    count: typing.ClassVar[int] = 0

    def scaled(self) -> int:
        return times(self.x) + int(self.y)

    @classmethod
    def at(cls, x: int) -> Point:
        return cls(x)

    @staticmethod
    def of(x: int) -> int:
        return times(x)

    @property
    def double(self) -> int:
        return self.x * 2


class Base(abc.ABC):
    word = "base"

    def __init__(self, n: int) -> None:
        self.n = n

    @abc.abstractmethod
    def work(self) -> int: ...

    def both(self) -> Any:
        return self.word, self.work(), type(self) is Derived


class Derived(Base):
    word = "derived"

    def __init__(self, n: int) -> None:
        super().__init__(n + 1)

    def work(self) -> int:
        return times(self.n)


class Meta(type):
    def __new__(cls, name: str, bases: Any, body: Any) -> Any:
        made: Any = super().__new__(cls, name, bases, body)
        made.tag = times(1)
        return made


class WithMeta(metaclass=Meta):
    tag: int


REGISTRY: dict[str, type] = {}


def registered(kind: type) -> type:
    REGISTRY[kind.__name__] = kind
    return kind


@registered
class Plugin:
    total = sum(times(i) for i in range(3))
    table: typing.ClassVar[Any] = {"times": times}

    def __init__(self) -> None:
        self.lock = threading.Lock()

    @functools.lru_cache  # noqa: B019
    def kept(self, x: int) -> int:
        return times(x)

    def itself(self) -> bool:
        return type(self) is Plugin and REGISTRY["Plugin"] is Plugin


@functools.lru_cache(maxsize=None)  # noqa: UP033
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@functools.cache
def factorial(n: int) -> int:
    return n * factorial(n - 1) if n else 1


@functools.singledispatch
def kind_of(x: object) -> str:
    return "object"


@kind_of.register
def _(x: int) -> str:
    return "int"


@kind_of.register(list)
def _(x: list[Any]) -> str:
    return "list of " + kind_of(x[0])


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[Any] = []

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        calls.append(args)
        return function(*args), len(calls)

    return wrapper


@counted
def twice_counted(x: int) -> int:
    return 2 * x


@contextlib.contextmanager
def five() -> Iterator[int]:
    yield 5


def with_five() -> int:
    with five() as x:
        return x


def even(n: int) -> bool:
    return n == 0 or TABLE["odd"](n - 1)


def odd(n: int) -> bool:
    return n != 0 and TABLE["even"](n - 1)


TABLE: dict[str, Any] = {"even": even, "odd": odd, "add": lambda x: x + 1, "class": Point, "several": [len, str.upper]}
PATTERN = re.compile(r"(\w+)@", re.IGNORECASE)
LOG = logging.getLogger("shipping.test")
SECOND = operator.itemgetter(1)
PARTIAL = functools.partial(times, 3)
OBJECT = Point(7)
MAYBE = Optional[int]  # noqa: UP045
LOCK = threading.Lock()


def uses_tables() -> Any:
    return TABLE["add"](2), TABLE["class"](2).scaled(), TABLE["several"][0]("abc"), even(7)


def uses_objects() -> Any:
    return PATTERN.match("ab@").group(1), LOG.name, SECOND([1, 2]), PARTIAL(), OBJECT.scaled(), str(MAYBE)  # type: ignore[union-attr]


def uses_submodules() -> Any:
    return (
        xml.dom.minidom.parseString("<a/>").documentElement.tagName,  # type: ignore[union-attr]
        aliased.parseString("<b/>").documentElement.tagName,  # type: ignore[union-attr]
        email.mime.text.MIMEText("x").get_content_type(),
        urllib.request.quote("a b"),  # type: ignore[attr-defined]
        unittest.mock.Mock(return_value=3)(),
        path_of.join("a", "b"),
    )


def uses_names() -> Any:
    return randint(1, 1), random.choice([2]), isinstance([], collections.abc.Sequence), "PATH" in os.environ


def uses_classes() -> Any:
    return (
        (Derived(3).both(), Base.word, Pair(1).y, Pair(1, 2) == (1, 2), Named(1).b),
        (Colour.RED.name, Shade.DARK + 1, Shade(2).name, WithMeta.tag),
        (Point(2).scaled(), Point.at(3).double, Point(1) < Point(2), repr(Point(1)), Point.of(2)),
        (Plugin.total, Plugin.table["times"](1), Plugin().kept(2), Plugin().itself()),
    )


def make_local() -> tuple[Any, ...]:
    ten = 10

    class Local:
        def get(self) -> int:
            return ten + times(1)

        class Inner:
            three = 3

    class Sub(Local):
        def get(self) -> int:
            return super().get() + self.Inner.three

    def uses() -> int:
        return Sub().get()

    def itself(n: int) -> int:
        return itself(n - 1) + 1 if n else ten

    return uses, itself, Sub


async def coroutine(x: int) -> int:
    await asyncio.sleep(0)
    return times(x)


def runs_a_loop() -> int:
    return asyncio.run(coroutine(1))


def old_idiom() -> int:
    return asyncio.get_event_loop().run_until_complete(coroutine(2))


def loop_of_its_own() -> list[int]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(asyncio.wait_for(asyncio.gather(coroutine(1), coroutine(2)), 5))
    finally:
        loop.close()


async def awaits_with_lane() -> bool:
    return asyncio.get_running_loop().is_running()


EVERYWHERE: list[tuple[Any, tuple[Any, ...]]] = [
    (uses_tables, ()),
    (uses_submodules, ()),
    (uses_names, ()),
    (even, (10,)),
    (fib, (20,)),
    (factorial, (5,)),
    (kind_of, (3,)),
    (kind_of, ([1],)),
    (kind_of, ("",)),
    (with_five, ()),
    (PARTIAL, ()),
    (make_local()[0], ()),
    (make_local()[1], (3,)),
    (random.randint, (1, 1)),
    (datetime.datetime.fromtimestamp, (0, datetime.timezone.utc)),
    (dict.fromkeys, ([1],)),
    (int.from_bytes, (b"a", "big")),
    (pathlib.PurePosixPath("a").joinpath, ("b",)),
]


def test_what_functions_use_goes_along(pi: Remote) -> None:
    for function, args in [*EVERYWHERE, (uses_objects, ()), (uses_classes, ()), (Point.of, (2,))]:
        assert pi.run(function, *args) == function(*args), function
    assert pi.run(twice_counted, 2) == (4, 1)


def test_on_the_oldest_python(oldest: Remote) -> None:
    for function, args in EVERYWHERE:
        if function not in (uses_tables, even):  # dataclasses came with Python 3.7
            assert oldest.run(function, *args) == function(*args), function
    assert oldest.run(lambda: (Derived(3).both(), Pair(1).y, Shade.DARK + 1, Colour.RED.name, WithMeta.tag)) == (
        ("derived", 16, True),
        5,
        2,
        "RED",
        4,
    )
    assert oldest.run(old_idiom) == 8
    assert oldest.run(loop_of_its_own) == [4, 8]
    oldest.execute("async def f(x):\n    return x\ny = await f(3)")
    assert oldest.evaluate("await f(4) + y") == 7


def test_a_class_is_the_same_in_later_calls(pi: Remote) -> None:
    made = pi.run(Point, 3)
    assert pi.run(lambda one: isinstance(one, Point), made) is True
    assert pi.builtins.isinstance(made, Point) is True
    assert pi.run(Point.scaled, made) == 15
    pi.push({"Point": Point, "times": times})
    assert pi.evaluate("(Point(2).scaled(), times(3))") == (11, 12)


def test_its_globals_are_those_of_the_last_call(pi: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pi.run(lambda: Point(2).scaled()) == 11
    monkeypatch.setitem(globals(), "FACTOR", 10)
    assert pi.run(lambda: Point(2).scaled()) == 23


def test_names_of_the_session(pi: Remote) -> None:
    pi.execute("there = 5")
    assert pi.run(lambda: there + 1) == 6  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(NameError, match="nowhere") as caught:
        pi.run(lambda: nowhere + 1)  # type: ignore[name-defined]  # noqa: F821
    assert caught.value.name == "nowhere"


def test_names_of_the_session_are_read_when_the_function_runs(pi: Remote) -> None:
    def reads() -> int:
        return later + max(1, 2)  # type: ignore[name-defined,no-any-return]  # noqa: F821

    def binds() -> list[bool]:
        names = globals()
        seen = ["later" in names, "never" in names, "reads" in names]
        names["bound"] = names["later"] * 2
        return seen

    pi["reads"] = reads
    with pytest.raises(NameError):
        pi.evaluate("reads()")
    for value in (5, 6):
        pi.execute(f"later = {value}")
        assert pi.evaluate("reads()") == value + 2
    pi.execute("max = min")
    assert pi.run(reads) == 6 + 1
    assert pi.run(binds) == [True, False, True]
    assert pi["bound"] == 12
    pi.execute("del later, max")
    with pytest.raises(NameError):
        pi.evaluate("reads()")


def test_functions_and_classes_as_arguments(pi: Remote) -> None:
    there: Any = pi.builtins
    assert there.sorted(["b", "A"], key=str.lower) == ["A", "b"]
    assert there.sorted([3, 1, 2], key=lambda x: -x) == [3, 2, 1]
    assert there.sorted([(1, 2), (2, 1)], key=operator.itemgetter(1)) == [(2, 1), (1, 2)]
    assert there.sorted([1, 2], key=functools.partial(operator.mul, -1)) == [2, 1]
    assert there.max([1, -5], key=abs) == -5
    assert list(there.map(int, ["1", "2"])) == [1, 2]
    assert list(there.map(times, [1, 2])) == [4, 8]
    assert list(there.filter(None, [0, 1])) == [1]
    assert there.isinstance(3, (int, str)) is True
    assert pi.modules.json.dumps({"a": times}, default=lambda one: one.__name__) == '{"a": "times"}'
    assert pi.modules.functools.reduce(operator.add, [1, 2, 3]) == 6
    assert pi.modules.re.sub(PATTERN, lambda found: found.group(1).upper(), "ab@") == "AB"
    assert str(pi.modules.collections.defaultdict(list)) == "defaultdict(<class 'list'>, {})"
    pool = pi.modules["concurrent.futures"].ThreadPoolExecutor(1)
    assert pool.submit(times, 3).result() == 12
    assert pi.run(concurrent.futures.ThreadPoolExecutor, 1).submit(times, 3).result() == 12


def test_numpy_functions_and_types_as_arguments(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location) as pi:
        assert pi.modules.numpy.zeros(3, dtype=int).tolist() == [0, 0, 0]
        array = pi.evaluate("__import__('numpy').arange(3)", ref=True)
        assert str(array.astype(np.uint32).dtype) == "uint32"
        assert pi.modules.functools.reduce(np.add, [1, 2, 3]) == 6
        assert pi.modules.numpy.apply_along_axis(np.mean, 0, np.ones((2, 2))).tolist() == [1.0, 1.0]
        normal = np.random.normal
        assert pi.run(lambda: normal(size=3).shape) == (3,)


@pytest.mark.parametrize("place", ["child", "process", "main"])
def test_event_loops_in_all_places(flame_server: Callable[..., FlameServer], place: str) -> None:
    with flame.connect(flame_server().location, shell="mini", place=place) as pi:
        for _ in range(2):
            assert pi.run(runs_a_loop) == 4
            assert pi.run(old_idiom) == 8
            assert pi.run(loop_of_its_own) == [4, 8]
            assert pi.run(coroutine, 3) == 12
            assert pi.run(awaits_with_lane) is True
        pi.execute("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x")
        assert pi.evaluate("await f(3)") == 3
        assert pi.evaluate("asyncio.run(f(4))") == 4
        pi.execute("x = await f(5)")
        pi.execute("z = asyncio.run(f(6))\ndef g():\n    return asyncio.run(f(7))")
        assert (pi["x"], pi["z"], pi["g"]()) == (5, 6, 7)


def test_a_loop_that_is_not_used_costs_no_descriptor(pi: Remote) -> None:
    pi.evaluate("1")
    count = "len(__import__('os').listdir('/proc/self/fd'))"
    before = pi.evaluate(count)
    pi.run(old_idiom)
    assert pi.evaluate(count) == before


def test_trust_takes_what_has_no_source(flame_server: Callable[..., FlameServer]) -> None:
    made: dict[str, Any] = {}
    exec("def bare(x, y=FACTOR):\n    return x + y + times(1)", globals(), made)
    with flame.connect(flame_server().location, shell="mini", trust=True) as pi:
        assert pi.run(made["bare"], 1) == 9
        assert pi.run(uses_classes) == uses_classes()
    with (
        flame.connect(flame_server().location, shell="mini") as pi,
        pytest.raises(CannotTravel, match="source of bare cannot be read"),
    ):
        pi.run(made["bare"], 1)


def test_what_a_function_cannot_take_along_is_named(pi: Remote) -> None:
    with pytest.raises(
        CannotTravel, match=r"<lambda> uses LOCK, which does not go .* a _thread\.lock is not plain data"
    ):
        pi.run(lambda: LOCK)
    with pytest.raises(CannotTravel, match=r"lock is not plain data; send"):
        pi.builtins.repr(LOCK)


def test_a_module_of_the_users_own_is_to_be_sent(pi: Remote, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipping_own").mkdir()
    for name, text in {
        "__init__": "",
        "tool": "def inc(x):\n    return x + 1\n",
        "core": "from . import tool\ndef work(x):\n    return tool.inc(x)\n",
    }.items():
        (tmp_path / "shipping_own" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    core = __import__("shipping_own.core").core
    with pytest.raises(
        CannotTravel, match=r"has no module shipping_own.tool, .*send it with sendmodule\('shipping_own'\)"
    ):
        pi.run(core.work, 1)
    pi.sendmodule("shipping_own")
    assert pi.run(core.work, 1) == 2
