"""Functions, classes and exceptions of many kinds, each sent to one session and compared with what Python does here."""

from __future__ import annotations

import abc
import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import operator
import os
import os.path as osp
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytest

from flame_kernel.remote.remote import Remote

TABLE: dict[str, Callable[[Any], Any]] = {"len": len, "more": lambda x: x + 1}


def times(n: int) -> Any:
    def wrap(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args) * n

        return inner

    return wrap


@times(3)
def decorated(x: int) -> int:
    return x + 1


@functools.singledispatch
def said(x: Any) -> Any:
    return "?"


@said.register
def _(x: int) -> Any:
    return "int"


@said.register(list)
def _(x: Any) -> Any:
    return [said(one) for one in x]


class Base(abc.ABC):
    K = 1

    @abc.abstractmethod
    def value(self) -> int: ...

    @classmethod
    def make(cls, *args: Any) -> Any:
        return cls(*args)

    @staticmethod
    def doubled(x: int) -> int:
        return x * 2


class Child(Base):
    __slots__ = ("x",)

    def __init__(self, x: int = 0) -> None:
        self.x = x

    def value(self) -> int:
        return super().K + self.x


class Meta(type):
    tag: str

    def __new__(cls, name: str, bases: Any, body: Any) -> Any:
        return super().__new__(cls, name, bases, {**body, "tag": name})


class WithMeta(metaclass=Meta):
    pass


class Described:
    class Name:
        def __set_name__(self, owner: Any, name: str) -> None:
            self.name = name

        def __get__(self, one: Any, owner: Any = None) -> str:
            return self.name

    d = Name()


class Counted:
    seen: ClassVar[list[str]] = []

    def __init_subclass__(cls) -> None:
        cls.seen = [cls.__name__]


class Sub(Counted):
    pass


class Partial:
    def applied(self, function: Any) -> Any:
        return function("a")

    upper = functools.partialmethod(applied, str.upper)


@contextlib.contextmanager
def block(x: int) -> Iterator[int]:
    yield x


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


async def later(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


async def both() -> Any:
    return await asyncio.gather(later(1), later(2))


def with_defaults(x: Any, /, function: Any = len, *, pattern: Any = re.compile(r"\d+")) -> Any:
    return function(x), pattern.findall("1 22")


class Slotted(Exception):
    __slots__ = ("extra",)

    def __init__(self, extra: Any) -> None:
        super().__init__("slotted")
        self.extra = extra


@dataclasses.dataclass
class OfDict(dict[str, int]):
    a: int = 1


of_dict = OfDict(4)
of_dict["q"] = 1


def marked(name: str) -> Any:
    return {**vars(marked), "name": name}["label"], marked.limit  # type: ignore[attr-defined]


marked.label, marked.limit, marked.kept_here = "m", [1, 2], threading.Lock()  # type: ignore[attr-defined]
T = TypeVar("T", bound=int)
INT, FLOATS = struct.Struct("<i"), np.finfo(np.float32)


def nested() -> int:
    z = 3

    class Local:
        def result(self) -> int:
            return (lambda q: q * z)(2)

    return Local().result()


def in_threads() -> Any:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(even, [4, 5]))


CALLS: list[tuple[Any, ...]] = [
    (decorated, 1),
    (said, [1, "a", [2]]),
    (Base.doubled, 4),
    (Child(5).value,),
    (lambda: Child.make(4).x,),
    (lambda: WithMeta.tag,),
    (lambda: Described().d,),
    (lambda: Sub.seen,),
    (lambda: Partial().upper(),),
    (lambda: block(4).__enter__(),),
    (lambda: TABLE["more"](TABLE["len"]("ab")),),
    (lambda kind: kind(4).x, Child),
    (lambda x: f"{x!r:>{10}} {'a' if x else 'b'}", 3),
    (lambda xs: [y for x in xs if (y := x * 2) > 2], [1, 2]),
    (lambda: urllib.parse.quote("a b"),),
    (lambda: osp.join("a", "b"),),
    (lambda: asyncio.run(both()),),
    (lambda: subprocess.run(["echo", "hi"], capture_output=True, text=True, check=True).stdout,),
    (lambda: collections.namedtuple("Z", "a b")(1, 2).b,),  # noqa: PYI024
    (even, 5),
    (with_defaults, "abc"),
    (nested,),
    (marked, "x"),
    (lambda: (T.__name__, T.__bound__, T.__constraints__),),
    (in_threads,),
    (lambda: (INT.pack(5), FLOATS.eps),),
    (functools.partial(pow, 2), 5),
    (operator.methodcaller("upper"), "a"),
    (operator.itemgetter(1, 0), [1, 2]),
    (np.add.reduce, [1, 2]),
    (np.linalg.norm, [3, 4]),
    (math.hypot, 3, 4),
    (dict.fromkeys, "ab"),
    (",".join, ["a", "b"]),
    (functools.reduce, operator.mul, [2, 3, 4]),
    (lambda xs, key: sorted(xs, key=key), [3, 1, 2], functools.cmp_to_key(lambda a, b: b - a)),
    (lambda d: (d["new"], dict(d)), collections.defaultdict(lambda: 5, a=1)),
    (repr, ({1: 2}.keys(), {1: 2}.values(), {1: 2}.items(), time.gmtime(0), os.stat("/"), os.uname())),
    (lambda one: (type(one).__name__, one.a, dict(one)), of_dict),
    (lambda error: (type(error).__name__, error.args, error.extra), Slotted([1])),
    (lambda error: repr(error), KeyError("k", [OSError(2, "x")])),
    (lambda error: repr(error), SystemExit(3)),
    (re.sub, "a", lambda match: match.group() * 2, "ba"),
    (json.dumps, {"a": {1}}),
]


@pytest.fixture
def pi(lasting: Remote) -> Remote:
    """One connection for all tests here."""
    return lasting


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # compared with what the same call raises elsewhere
        kinds = [kind for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        return next(kind.__name__ for kind in kinds if kind.__name__ != "RemoteError"), str(error), error.args


def test_they_do_there_what_they_do_here(pi: Remote) -> None:
    for function, *args in CALLS:
        here = outcome(lambda: function(*args))  # noqa: B023
        assert outcome(lambda: pi.run(function, *args)) == here, (function, args)  # noqa: B023
    assert list(pi.run(itertools.chain.from_iterable, [[1], [2]])) == [1, 2]


class Coded(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


class Told(Exception):
    def __str__(self) -> str:
        return f"told: {self.args[0]}"


class OfSystem(OSError):
    pass


class OfKey(KeyError):
    pass


def raises(error: BaseException) -> Any:
    raise error


RAISED: list[tuple[Callable[[], Any], type[BaseException], dict[str, Any]]] = [
    (lambda: raises(Coded(4, hint="h")), Coded, {"code": 4, "hint": "h", "args": ("code 4",)}),
    (lambda: raises(Told(9)), Told, {"args": (9,)}),
    (lambda: raises(OfSystem(2, "No", "f")), OfSystem, {"errno": 2, "filename": "f"}),
    (lambda: raises(OfKey("k")), OfKey, {"args": ("k",)}),
    (lambda: json.loads("{"), json.JSONDecodeError, {"pos": 1, "doc": "{", "lineno": 1}),
    (lambda: subprocess.run(["false"], check=True), subprocess.CalledProcessError, {"returncode": 1, "cmd": ["false"]}),
    (lambda: b"\xff".decode(), UnicodeDecodeError, {"object": b"\xff", "start": 0}),
    (lambda: None.foo, AttributeError, {"name": "foo"}),  # type: ignore[attr-defined]
    (lambda: __import__("nope_zz"), ModuleNotFoundError, {"name": "nope_zz"}),
    (lambda: re.compile("("), re.error, {"pos": 0}),
    (lambda: np.linalg.inv(np.zeros((2, 2))), np.linalg.LinAlgError, {}),
    (lambda: raises(urllib.error.HTTPError("u", 404, "nf", {}, None)), urllib.error.HTTPError, {"code": 404}),  # type: ignore[arg-type]
    (lambda: compile("x=", "f.py", "exec"), SyntaxError, {"lineno": 1}),
    (lambda: raises(Slotted([1])), Slotted, {"extra": [1], "args": ("slotted",)}),
    (lambda: raises(socket.gaierror(-2, "no name")), socket.gaierror, {"errno": -2, "args": (-2, "no name")}),
    (lambda: raises(BlockingIOError(11, "x", 5)), BlockingIOError, {"characters_written": 5}),
    (lambda: np.sum(np.zeros(2), axis=3), np.exceptions.AxisError, {"axis": 3, "ndim": 1}),
    (lambda: compile("a b", "f", "exec"), SyntaxError, {"end_lineno": 1, "end_offset": 4}),
    (lambda: raises(urllib.error.HTTPError("u", 404, "nf", {}, None)), urllib.error.HTTPError, {"args": ()}),  # type: ignore[arg-type]
    (lambda: "\ud800".encode(), UnicodeEncodeError, {"object": "\ud800"}),
    (lambda: asyncio.run(asyncio.wait_for(asyncio.sleep(9), 0.01)), asyncio.TimeoutError, {}),
]


def test_exceptions_are_what_they_are_here(pi: Remote) -> None:
    for function, kind, facts in RAISED:
        with pytest.raises(kind) as here:
            function()
        with pytest.raises(kind) as caught:
            pi.run(function)
        assert str(caught.value) == str(here.value)
        assert {name: getattr(caught.value, name) for name in facts} == facts
    with pytest.raises(urllib.error.URLError) as refused:
        pi.run(lambda: raises(urllib.error.URLError(OSError(2, "no"))))
    assert [type(one) for one in (refused.value.reason, *refused.value.args)] == [FileNotFoundError] * 2
