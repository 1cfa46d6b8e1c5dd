"""Named tuples, dataclasses and enum members: of the very class where that is known, else as facts to be read."""

from __future__ import annotations

import collections
import dataclasses
import enum
import http
import pathlib
import pickle
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from farside import FlameServer

import flame
from flame_kernel.agent.wire import records, values
from flame_kernel.remote.proxy import RemoteObject
from flame_kernel.remote.records import known_class, nearest_class
from flame_kernel.remote.remote import Remote


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None
    count: typing.ClassVar[int] = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int


@dataclasses.dataclass
class Slotted:
    __slots__ = ("a", "b")
    a: int
    b: Any


class Colour(enum.Enum):
    RED = "r"
    GREEN = (1, 2)


class Number(enum.IntEnum):
    ONE = 1


class Way(enum.Flag):
    UP = 1
    DOWN = 2


class Typed(typing.NamedTuple):
    a: int
    b: str = "x"


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024
VALUES: list[Any] = [
    Point(1, [2]),
    Frozen(3),
    Slotted(1, Point(2)),
    Colour.RED,
    Colour.GREEN,
    Number.ONE,
    Way.UP,
    Way.UP | Way.DOWN,
    Typed(1),
    Pair(1, [2]),
    [Pair(1, 2), {Frozen(1): Colour.RED}],
    http.HTTPStatus.OK,
    Point(1, Point(Colour.RED, [Pair(1, Typed(2))])),
]
OF_THERE = """
import collections, dataclasses, enum
Q = collections.namedtuple("Q", "a b")
q = Q(1, [2])
class E(enum.IntEnum): X = 3
class S(enum.Enum): Y = "y"
class O(enum.Enum): Z = (1, 2)
@dataclasses.dataclass
class D: a: int
e, s, o, d = E.X, S.Y, O.Z, D(5)
"""


@pytest.fixture
def remote(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    with flame.connect(flame_server().location) as connected:
        yield connected


def test_it_is_of_the_very_class(remote: Remote) -> None:
    for value in VALUES:
        remote["v"] = value
        back = remote.pull(["v"])["v"]
        assert type(back) is type(value)
        assert back == value
        assert type(remote.evaluate("v", ref=True).fetch()) is type(value)


def test_records_that_know_each_other_do_so_there(remote: Remote) -> None:
    parent = Point(1, [])
    parent.y = [Point(at, {"parent": parent}) for at in range(3)]
    itself = Slotted(1, None)
    itself.b = Pair(itself, [itself])
    remote.push({"tree": parent, "itself": itself})
    assert remote.evaluate(
        "all(child.y['parent'] is tree for child in tree.y) and itself.b.a is itself is itself.b.b[0]"
    )
    tree, again = remote.pull(["tree", "itself"]).values()
    assert (type(tree), type(again)) == (Point, Slotted)
    assert all(child.y["parent"] is tree for child in tree.y)
    assert again.b.a is again is again.b.b[0]
    remote.execute(OF_THERE + "\nd.a = [d]")
    facts = remote.pull(["d"])["d"]
    assert facts.a[0] is facts
    deep: Any = None
    for _ in range(400):
        deep = Point(1, deep)
    back = round_trip(remote, deep)
    for _ in range(400):
        assert type(back) is Point
        back = back.y
    assert back is None


def round_trip(remote: Remote, value: Any) -> Any:
    remote.push({"v": value})
    return remote.pull(["v"])["v"]


def test_what_a_function_makes_of_them_comes_back(remote: Remote) -> None:
    def moved(point: Any) -> Any:
        return Point(point.x + 1, [point])

    back = remote.run(moved, Point(1))
    assert type(back) is Point
    assert back == Point(2, [Point(1)])


def test_what_is_of_a_class_of_theirs_is_facts(remote: Remote) -> None:
    remote.execute(OF_THERE)
    assert isinstance(remote.evaluate("d"), RemoteObject)  # a stand-in for the living one, unless it is fetched
    q, e, s, o, d = (remote.pull([name])[name] for name in "qesod")
    assert (tuple(q), q.a, q.b, q._asdict(), repr(q)) == ((1, [2]), 1, [2], {"a": 1, "b": [2]}, "Q(a=1, b=[2])")
    assert (e, e.name, e.value, isinstance(e, int), repr(e)) == (3, "X", 3, True, "<E.X: 3>")
    assert (s, s.name, isinstance(s, str)) == ("y", "Y", True)
    assert (o.name, o.value) == ("Z", (1, 2))
    assert (d.a, repr(d), dir(d)) == (5, "D(a=5)", ["a"])
    with pytest.raises(AttributeError, match="can only be read"):
        d.a = 6
    with pytest.raises(AttributeError, match="D has no b"):
        _ = d.b
    assert pickle.loads(pickle.dumps(d)) == d
    for name, one in zip("qesod", (q, e, s, o, d), strict=True):  # and sent back they are what they were
        remote["back"] = one
        assert remote.evaluate(f"back == {name} and type(back) is type({name})")


def test_a_class_is_never_imported_or_looked_up_by_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only in the dicts of modules that are loaded; and only plain data classes, under their own name."""

    class Loud(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    monkeypatch.setitem(sys.modules, "loud", Loud("loud"))
    assert known_class(None, "loud", "Point") is None
    assert known_class(None, "antigravity", "Point") is None
    assert "antigravity" not in sys.modules
    for module, name in [("subprocess", "Popen"), ("builtins", "eval"), ("os", "system"), ("enum", "Enum.__new__")]:
        assert known_class(None, module, name) is None
    assert known_class(None, __name__, "Point") is Point
    assert known_class(None, __name__, "pickle.Pickler") is None
    assert known_class(None, __name__, "VALUES") is None
    assert known_class(None, "http", "HTTPStatus") is http.HTTPStatus
    monkeypatch.setattr(sys.modules[__name__], "Other", Point, raising=False)
    assert known_class(None, __name__, "Other") is None
    assert known_class("no key of ours", "os", "x") is None
    for module, name in [("loud", "Point"), ("antigravity", "Point"), ("builtins", "eval"), ("os", "nope.x"), ("", "")]:
        assert nearest_class([[None, module, name]]) is None
    assert "antigravity" not in sys.modules
    assert nearest_class([["no key of ours", "os", "x"], [None, "subprocess", "Popen"]]) is subprocess.Popen
    assert nearest_class([[None, "pathlib._local", "PurePath"]]) is pathlib.PurePath  # where Python 3.13 has it
    assert nearest_class([[None, "codecs.else", "OrderedDict"]]) is None
    assert nearest_class([[None, "no_module", str(n)] for n in range(1000)] + [[None, "builtins", "dict"]]) is None


class Busy:
    """What a class might do when it is made."""

    ran: typing.ClassVar[list[str]] = []


@dataclasses.dataclass
class Doing(Busy):
    a: int

    def __new__(cls, *args: Any) -> Any:
        Busy.ran.append("new")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        Busy.ran.append("init")

    def __setattr__(self, name: str, value: Any) -> None:
        Busy.ran.append("set")
        object.__setattr__(self, name, value)

    def __setstate__(self, state: Any) -> None:
        Busy.ran.append("state")

    def __del__(self) -> None:
        pass


def told(kind: type) -> list[Any]:
    return [None, kind.__module__, kind.__qualname__]


def test_making_one_runs_no_code_of_its_class() -> None:
    text = values.encode(Doing(1), classes=told)
    Busy.ran.clear()
    back = values.decode(text, classes=known_class)
    assert type(back) is Doing
    assert back.a == 1
    assert Busy.ran == []


HOSTILE: dict[str, Any] = {
    "a tuple of other names": {"rt": [{"c": [None, "m", "P"]}, ["a"], 1, 2]},
    "a tuple of names that are none": {"rt": [{"c": [None, "m", "P"]}, [1], 1]},
    "a tuple without a class": {"rt": []},
    "a class that is a text": {"rt": ["os.system", ["a"], 1]},
    "a class that is a list": {"rt": [{"c": [None, ["os"], "P"]}, ["a"], 1]},
    "a class that is told in part": {"rd": [{"c": [None, "m"]}, "a", 1]},
    "an object by half": {"rd": [{"c": [None, "m", "P"]}, "a"]},
    "an object of no names": {"rd": [{"c": [None, "m", "P"]}, 1, 2]},
    "an object that is filled later, of no names": {"rd": [{"c": [None, "m", "P"]}, None, 1]},
    "an entry of two classes": {"G": [[{"rd": [{"c": [None, "m", "P"]}, None]}, {"m": {}}]]},
    "an entry that is a tuple": {"G": [[{"rt": [{"c": [None, "m", "P"]}, []]}, {"m": {}}]]},
    "a class by a reference": {"rd": [{"@": "x"}, "a", 1]},
    "a member of no name": {"re": [{"c": [None, "m", "P"]}, 1, 2]},
    "a member in part": {"re": [{"c": [None, "m", "P"]}, "a"]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_refused(name: str) -> None:
    with pytest.raises(values.BadValue):
        values.decode([__import__("json").dumps(HOSTILE[name]).encode()], classes=known_class)


def test_a_record_that_does_not_fit_its_class_is_facts() -> None:
    def read(tree: Any) -> Any:
        return values.decode([__import__("json").dumps(tree).encode()], classes=known_class)

    here = [None, __name__]
    assert type(read({"rd": [{"c": [*here, "Point"]}, "z", 1]})) is records.Facts
    assert type(read({"rd": [{"c": [*here, "Slotted"]}, "a", 1, "b", 2, "z", 1]})) is records.Facts
    assert type(read({"rt": [{"c": [*here, "Pair"]}, ["a"], 1]})) is records.TupleFacts
    assert type(read({"rt": [{"c": [*here, "Point"]}, ["x", "y"], 1, 2]})) is records.TupleFacts
    assert type(read({"re": [{"c": [*here, "Number"]}, "TWO", 2]})) is records.IntFacts
    assert type(read({"rd": [{"c": [None, "subprocess", "Popen"]}, "args", ["true"]]})) is records.Facts
    strange = read({"rd": [{"c": [None, "m", "P"]}, "__class__", 1, "_flame_values", 2]})
    assert type(strange) is records.Facts
