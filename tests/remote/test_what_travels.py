"""The table "What travels" of the reference page: each row is shown by a test, and no row is without one."""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import http
import ipaddress
import math
import operator
import os
import pathlib
import random
import re
import sys
import threading
import time
import types
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from farside import FlameServer

import flame
from flame_kernel.errors import CannotTravel, RemoteError
from flame_kernel.remote.proxy import RemoteObject
from flame_kernel.remote.remote import Remote

PAGE = pathlib.Path(__file__).parents[2] / "notebooks" / "REFERENCE.md"
Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024


@dataclasses.dataclass
class Data:
    a: int
    b: Any = None


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class Own:
    def __init__(self, x: int) -> None:
        self.x = x


class Failed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@functools.cache
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


PATTERN = re.compile(r"\d+")


@pytest.fixture
def pi(server: FlameServer) -> Iterator[Remote]:
    """A connection without trust."""
    with flame.connect(server.location, shell="mini") as connected:
        yield connected


def back(pi: Remote, *values: Any) -> list[Any]:
    """The values after a trip there and back."""
    pi.push({"v": list(values)})
    found: list[Any] = pi.pull(["v"])["v"]
    assert [type(one) for one in found] == [type(one) for one in values]
    return found


def exact(pi: Remote, *values: Any) -> None:
    assert back(pi, *values) == list(values)


def plain(pi: Remote) -> None:
    exact(pi, None, True, 10**6000, -0.5, 1j, "\ud800\0", b"\xff", bytearray(b"a"), [()], {(1,): {2}}, frozenset([3]))
    exact(pi, range(10**30, 0, -7), slice(None, 1, 2), ..., NotImplemented)
    inner: list[Any] = [1]
    inner.append(inner)
    one, two = back(pi, inner, inner)
    assert one is two is one[1]
    deep: Any = ()
    for _ in range(2900):
        deep = (deep,)
    found = back(pi, deep)[0]
    for _ in range(2900):
        (found,) = found
    assert found == ()


def scalars(pi: Remote) -> None:
    exact(pi, decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5), pathlib.Path("a/b"))
    exact(pi, datetime.date(2024, 1, 2), datetime.timedelta(1), datetime.time(1), pathlib.PureWindowsPath("a"))
    exact(pi, ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"))
    exact(pi, datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc), datetime.timezone.utc)
    with pytest.raises(CannotTravel, match="a time zone of class dateutil"):
        pi["x"] = pd.Timestamp("2024-01-01", tz="dateutil/Europe/Berlin").to_pydatetime()


def containers(pi: Remote) -> None:
    queue = back(pi, collections.deque([1, 2], 5))[0]
    assert (list(queue), queue.maxlen) == ([1, 2], 5)
    exact(pi, collections.OrderedDict(b=1, a=2), collections.defaultdict(list, {"a": [1]}), collections.Counter("aab"))
    exact(pi, collections.ChainMap({"a": 1}), collections.UserDict(a=1), collections.UserList([1]))
    exact(pi, collections.UserString("a"), [collections.UserString("b" * 5000)])
    exact(pi, types.SimpleNamespace(a=[1]), array.array("d", [1.5]))
    exact(pi, time.gmtime(0), os.stat("/"), {1: 2}.keys(), {1: 2}.items(), collections.OrderedDict(a=1).items())
    assert list(back(pi, {1: 2}.values())[0]) == [2]
    assert pi.run(lambda d: d["x"], collections.defaultdict(lambda: 5)) == 5


def views(pi: Remote) -> None:
    exact(pi, memoryview(b"abc"), memoryview(array.array("i", [1, 2])))


def records(pi: Remote) -> None:
    exact(pi, Pair(1, [2]), Data(1, Data(2)), Colour.RED, Level.LOW | Level.HIGH)
    assert back(pi, Colour.RED)[0] is Colour.RED
    pi.execute("import collections\nT = collections.namedtuple('T', 'a b')(1, 2)")
    theirs = pi.pull(["T"])["T"]
    assert (theirs, theirs.b, isinstance(theirs, tuple)) == ((1, 2), 2, True)
    pi.execute("import dataclasses\n@dataclasses.dataclass\nclass Changes:\n    a: int = 1")
    for call in (lambda: http.HTTPStatus.OK, lambda: urllib.parse.urlparse("http://a/b"), lambda: re.I | re.M):
        for result in (pi.run(call), next(pi.run(lambda call: iter([call()]), call))):
            assert (type(result), result) == (type(call()), call())
    for expression in ("T", "Changes()"):
        assert isinstance(pi.evaluate(expression), RemoteObject)


def numpy_arrays(pi: Remote) -> None:
    odd = [
        np.zeros(2, [("a", "i4"), ("b", ">f8", (2,))]),
        np.array([1, "a", None], object),
        np.asfortranarray(np.eye(3)),
        np.ma.array([1, 2], mask=[0, 1]),
        np.array(["a", "bc"], np.dtypes.StringDType()),
        np.rec.array([(1, "a")], dtype=[("x", "i4"), ("y", "U3")]),
        np.array([[1]]).view(np.matrix),
    ]
    for one, found in zip(odd, back(pi, *odd), strict=True):
        assert (one.dtype, one.shape) == (found.dtype, found.shape)
        assert np.array_equal(one, found)
    exact(pi, np.float32(1.5), np.datetime64("2024-01-01"), np.dtype("<f8"))


def pandas_tables(pi: Remote) -> None:
    frame = pd.DataFrame({"n": [1, 2, 3], "o": [[1], None, "x"], "c": pd.Categorical(["a", "b", "a"])})
    frame.attrs["unit"] = "m"
    for one in (frame, frame.describe(), frame.groupby("c", observed=True)["n"].agg(["mean", "max"]), pd.DataFrame()):
        found = back(pi, one)[0]
        pd.testing.assert_frame_equal(found, one)
        assert found.attrs == one.attrs
    pd.testing.assert_series_equal(back(pi, frame["c"].value_counts())[0], frame["c"].value_counts())
    index = pd.MultiIndex.from_product([["a"], [1, 2]], names=["x", None])
    pd.testing.assert_index_equal(back(pi, index)[0], index)
    exact(pi, pd.Timestamp("2024-01-01", tz="UTC"), pd.Timedelta("1ns"), pd.Period("2024Q1"), pd.Interval(1, 2))
    assert back(pi, pd.NaT, pd.NA)[0] is pd.NaT
    with pytest.raises(CannotTravel, match="its text makes another one"):
        pi["x"] = pd.offsets.CustomBusinessDay(holidays=["2024-01-01"])


def arrow_and_polars(pi: Remote) -> None:
    exact(pi, pa.table({"a": [1, None], "s": [{"x": 1}, None]}), pa.array(["a"]).dictionary_encode(), pa.scalar([1]))
    exact(pi, pa.schema([("a", pa.int8())]), pa.record_batch({"a": [1]}), pa.timestamp("ns", "UTC"))
    frame = pl.DataFrame({"a": [1, None], "l": [[1], []]})
    assert back(pi, frame)[0].equals(frame)


def functions(pi: Remote) -> None:
    assert pi.run(fib, 20) == 6765
    assert pi.run(lambda text: PATTERN.findall(text), "1 a 22") == ["1", "22"]
    assert pi.run(functools.partial(pow, 2), 5) == 32
    assert pi.run(lambda: Own(3).x) == 3
    assert pi.run(lambda: Own) is pi.builtins.type(pi.run(lambda: Own(3))) is Own
    assert pi.run(lambda report: report(Own), pi.on(lambda kind: kind is Own)) is True
    with pi.batch() as batch:
        kind = batch.run(type, Own(1))
    assert kind.result() is Own
    pi["kept"] = Own
    for stands in (pi["kept"], pi.evaluate("kept"), pi.run(lambda: [Own])[0]):
        assert isinstance(stands, RemoteObject)


def own_objects(pi: Remote) -> None:
    assert pi.run(lambda one: (type(one).__name__, one.x), Own(3)) == ("Own", 3)
    there = pi.run(lambda: Own(4))
    assert isinstance(there, RemoteObject)
    assert isinstance(there, Own)
    with pytest.raises(CannotTravel):
        there.fetch()


def by_name(pi: Remote) -> None:
    assert pi.builtins.sorted(["b", "A"], key=str.lower) == ["A", "b"]
    assert list(pi.builtins.map(int, ["1"])) == [1]
    assert pi.run(math.hypot, 3, 4) == 5
    assert pi.run(np.mean, [1, 3]) == 2
    assert pi.modules.functools.reduce(operator.add, [1, 2]) == 3
    assert 0 <= pi.run(random.random) < 1


def called_back(pi: Remote) -> None:
    seen: list[Any] = []
    for one in (seen.append, lambda item: seen.append(item), pi.on(print)):
        assert pi.run(lambda report: report("x"), one) is None
    assert seen == ["x", "x"]
    assert pi.run(lambda show: show(Pair(1, 2)), pi.on(lambda pair: type(pair) is Pair)) is True
    assert pi.run(lambda show: show(http.HTTPStatus.OK), pi.on(lambda one: one is http.HTTPStatus.OK)) is True
    pi.execute("import enum\nclass Theirs(enum.Enum):\n    A = 1\ndef shows(show):\n    return show(Theirs.A)")
    assert pi["shows"](pi.on(lambda one: isinstance(one, RemoteObject))) is True
    assert pi.run(sum, iter([1, 2])) == 3


def without_source(pi: Remote) -> None:
    made: dict[str, Any] = {}
    exec("def made(x): return x + 1", made)
    with pytest.raises(CannotTravel):
        pi.run(made["made"], 1)
    with flame.connect(pi.location, trust=True, shell="mini") as trusted:
        assert trusted.run(made["made"], 1) == 2


def exceptions(pi: Remote) -> None:
    def fails() -> None:
        raise Failed(4)

    with pytest.raises(Failed) as own:
        pi.run(fails)
    assert (own.value.code, own.value.args, str(own.value)) == (4, ("code 4",), "code 4")
    with pytest.raises(FileNotFoundError) as caught:
        pi.builtins.open("/nowhere/at/all")
    assert (caught.value.errno, caught.value.filename) == (2, "/nowhere/at/all")
    assert isinstance(caught.value, RemoteError)
    assert any("On the far side" in note for note in own.value.__notes__)
    for error in (ValueError(1, "a"), Failed(4), KeyError("k", [OSError(2, "x")])):
        for there in (*back(pi, error), pi.run(lambda error: error, error)):
            assert (type(there), repr(there), vars(there)) == (type(error), repr(error), vars(error))
    future = pi.modules.concurrent.futures.Future()
    future.set_exception(Failed(3))
    assert future.exception().code == 3
    pi.execute("class Theirs(Exception): pass")
    assert isinstance(pi.evaluate("Theirs(1)"), RemoteObject)


def awaited(pi: Remote) -> None:
    pi.execute("import asyncio\nasync def one():\n    return 1\nasync def two():\n    yield 1\n    yield 2")

    async def main() -> Any:
        return await pi["one"](), [item async for item in pi["two"]()]

    assert asyncio.run(main()) == (1, [1, 2])


def stays(pi: Remote) -> None:
    for expression in ("open('/dev/null')", "__import__('threading').Lock()", "iter([])", "bytes(17 << 20)"):
        assert isinstance(pi.evaluate(expression), RemoteObject)
    assert isinstance(pi.modules.os, RemoteObject)
    with pytest.raises(CannotTravel, match="lock is not plain data"):
        pi["x"] = threading.Lock()


def tensors(pi: Remote) -> None:
    fake = str(PAGE.parents[1] / "tests" / "apps" / "fake_torch")
    sys.path.insert(0, fake)
    try:
        import torch

        with flame.connect(pi.location, shell="mini") as one:
            one.execute(f"import sys; sys.path.insert(0, {fake!r}); import torch")
            sent = torch.arange(4, torch.bfloat16).as_strided((2, 2), (1, 2)).to("cuda:1")
            (made,) = back(one, sent)
            assert (made.dtype, made.stride(), made.device) == (torch.bfloat16, (1, 2), "cuda:1")
            assert one.pull(["v"], device="cpu")["v"][0].device == "cpu"
    finally:
        sys.path.remove(fake)
        sys.modules.pop("torch", None)


def arrays_of_others(pi: Remote) -> None:
    pi.execute(
        "class Odd:\n    shape, dtype = (2,), 'i4'\n    def __array__(self, *a, **k):\n"
        "        import numpy\n        return numpy.array([1, 2], 'i4')\nodd = Odd()"
    )
    assert isinstance(pi.evaluate("odd"), RemoteObject)
    assert pi.evaluate("odd").fetch().tolist() == pi.pull(["odd"])["odd"].tolist() == [1, 2]
    pi.execute("Odd.coords = ()")
    with pytest.raises(CannotTravel):
        pi.pull(["odd"])


def pickled(pi: Remote) -> None:
    with flame.connect(pi.location, trust=True, shell="mini") as trusted:
        trusted.execute("class There:\n    def __init__(s): s.a = [1]\nthere = There()")
        there = trusted.pull(["there"])["there"]
        assert (type(there).__name__, there.a) == ("There", [1])
        assert back(trusted, [ValueError(1), Own(1)])[0][1].x == 1
        trusted.execute("class Text(str): pass\nclass Fails(Exception):\n    def __init__(s): s.args = (1,)")
        assert trusted.evaluate("[__import__('re').compile('a')]") == [re.compile("a")]
        assert (trusted.evaluate("Text('a')"), type(trusted.evaluate("Text('a')")).__name__) == ("a", "Text")
        for expression in ("there", "Fails()", "[Text('a'), there]"):
            assert isinstance(trusted.evaluate(expression), RemoteObject)


SHOWN: dict[str, Callable[[Remote], None]] = {
    "None, bool": plain,
    "Decimal,": scalars,
    "OrderedDict": containers,
    "memoryview": views,
    "named tuples": records,
    "numpy arrays": numpy_arrays,
    "torch.Tensor": tensors,
    "arrays of other libraries": arrays_of_others,
    "pandas DataFrame": pandas_tables,
    "pyarrow Table": arrow_and_polars,
    "functions and classes of yours": functions,
    "objects of your own classes": own_objects,
    "functions and types of Python": by_name,
    "a function that changes something here": called_back,
    "functions whose source": without_source,
    "exceptions": exceptions,
    "coroutines": awaited,
    "everything else:": stays,
    "everything else, under": pickled,
}


def rows() -> list[str]:
    """The first cell of each row."""
    table = PAGE.read_text(encoding="utf-8").partition("## What travels")[2].partition("\n## ")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][1:]


def test_each_row_has_its_test_and_each_test_its_row() -> None:
    found = [[start for start in SHOWN if row.startswith(start)] for row in rows()]
    assert [one[:1] for one in found] == [[start] for start in SHOWN]
    readme = PAGE.parents[1] / "README.md"
    assert "REFERENCE.md#what-travels" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize("row", SHOWN)
def test_it_is_as_the_row_says(row: str, pi: Remote) -> None:
    SHOWN[row](pi)
