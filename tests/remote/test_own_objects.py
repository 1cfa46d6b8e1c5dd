"""Objects of the user's own classes as arguments: they go with the source of their class, as copies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from farside import FlameServer

import flame
from flame_kernel.errors import CannotTravel
from flame_kernel.remote.proxy import RemoteObject
from flame_kernel.remote.remote import Remote


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x

    __hash__ = None  # type: ignore[assignment]


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a = 1


class Ring:
    def __init__(self) -> None:
        self.me = self
        self.listed = [self]


class Named(dict[str, int]):
    pass


class Row(list[int]):
    def __init__(self, *items: int) -> None:
        super().__init__(items)
        self.title = "row"


class Reduced:
    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        return Reduced, (self.n + 1,)


class WithState:
    def __init__(self) -> None:
        self.kept, self.lock = 1, threading.Lock()

    def __getstate__(self) -> dict[str, int]:
        return {"kept": self.kept}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.kept = state["kept"] + 1


class WithLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class OfALibrary(threading.Thread):
    pass


@pytest.fixture
def pi(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    """A connection to a stock server."""
    with flame.connect(flame_server().location, shell="mini") as connected:
        yield connected


def test_they_go_with_their_class(pi: Remote) -> None:
    assert pi.run(lambda one: (type(one).__name__, one.x), Point(4)) == ("Point", 4)
    assert pi.run(lambda one: (one.a, hasattr(one, "b")), Slotted()) == (1, False)
    assert pi.run(lambda one: one.me is one is one.listed[0], Ring())
    assert pi.run(lambda one: (type(one).__name__, dict(one)), Named(a=1)) == ("Named", {"a": 1})
    assert pi.run(lambda one: (type(one).__name__, list(one), one.title), Row(1, 2)) == ("Row", [1, 2], "row")
    assert pi.run(lambda one: one.n, Reduced(1)) == 2
    assert pi.run(lambda one: one.kept, WithState()) == 2


def test_they_are_copies_and_shared_ones_stay_shared(pi: Remote) -> None:
    point = Point(1)
    assert pi.run(lambda one, two, three: one is two is three[0]["k"], point, point, [{"k": point}])
    pi["point"] = point
    pi.execute("point.x = 5")
    assert (point.x, pi["point"].x) == (1, 5)
    assert isinstance(pi["point"], RemoteObject)
    assert isinstance(pi["point"], Point)
    assert pi["point"] == Point(5)
    assert pi.run(lambda one: isinstance(one, Point), pi["point"])


@pytest.mark.parametrize("kind", [WithLock, OfALibrary])
def test_what_cannot_go_is_refused_by_its_class(pi: Remote, kind: Any) -> None:
    for value in (kind(), [1, {"k": kind()}]):
        with pytest.raises(CannotTravel, match=rf"a .*{kind.__name__} is not plain data"):
            pi["one"] = value
    assert "one" not in pi
