"""Functions of this side that run on the far one: by their source, with all they use, or not at all."""

from __future__ import annotations

import collections
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from farside import FlameServer, Python

import flame
from flame_kernel.errors import CannotTravel, RemoteError
from flame_kernel.remote.functions import RemoteFunction, Shipment
from flame_kernel.remote.remote import Remote

FACTOR = 3
TABLE = {"a": (1, 2), "b": [None]}
LOCK = threading.Lock()


def triple(x: int) -> int:
    return x * FACTOR


def uses_names(x: int, *, extra: tuple[int, ...] = (1, 2)) -> Any:
    """Its text
    keeps its indentation, and so does the one below.
    """
    text = """
  two blanks
"""
    counted = collections.Counter("aab")
    return triple(x), math.floor(1.5), sum(extra), TABLE["a"], counted["a"], text, [triple(i) for i in range(3)]


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def make_adder(n: int) -> Callable[[int], int]:
    total = 0

    def add(x: int) -> int:
        nonlocal total
        total += x
        return total + n

    return add


def fails(x: int) -> float:
    y = x - 1
    return 1 / y  # this line


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


async def sleeps(x: int) -> int:
    import asyncio

    await asyncio.sleep(0.01)
    return x + 1


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ["wrapped", function(*args, **kwargs)]

    return wrapper


@logged
def decorated(x: int) -> int:
    return x + FACTOR


def annotated(x: Nowhere = 1, *rest: NorHere) -> NorThere:  # type: ignore[name-defined]  # noqa: F821
    y: Nobody = x  # type: ignore[name-defined]  # noqa: F821
    return y


class Local:
    def method(self) -> int:
        return 1


def uses_a_lock() -> Any:
    return LOCK


def uses_it_deeply() -> Any:
    return uses_a_lock()


def test_functions_run_there_as_here(pi: Remote) -> None:
    assert pi.run(lambda: __import__("os").getppid()) == pi.session.server["pid"]
    for function, args in (
        (uses_names, (4,)),
        (factorial, (20,)),
        (even, (10,)),
        (make_adder(10), (5,)),
        (decorated, (1,)),
        (annotated, (5,)),
        (functools.partial(triple), (2,)),
        (functools.partial(pow, 2), (5,)),
        (len, ("four",)),
        (max, (1, 5)),
        (math.sqrt, (9,)),
        (str.upper, ("up",)),
        (dict, ([("a", 1)],)),
        (functools.lru_cache(triple), (2,)),
        (Local().method, ()),
        ("up".upper, ()),
    ):
        assert pi.run(function, *args) == function(*args), function
    assert pi.run(uses_names, 1, extra=(5,)) == uses_names(1, extra=(5,))
    assert list(pi.run(numbers, 300)) == list(range(300))
    assert pi.run(sleeps, 1) == 2


def test_lambdas_are_told_apart(pi: Remote) -> None:
    several = [lambda x: x + 1, lambda x: x + 2, lambda x: x * FACTOR]
    assert [pi.run(one, 10) for one in several] == [11, 12, 30]
    # Two in one line, one of them within the other.
    outer = lambda x: lambda y: y + x  # noqa: E731
    assert pi.run(outer(5), 1) == 6
    assert pi.run(outer, 5)(1) == 6


def test_the_decorator(pi: Remote) -> None:
    @pi.remote
    def power(x: int, y: int = 2) -> int:
        """To the power of."""
        return x if y == 0 else x * power(x, y - 1)

    assert isinstance(power, RemoteFunction)
    assert power(2, y=3) == 16
    assert power.local.__name__ == power.__name__ == "power"
    assert power.__doc__ == "To the power of."
    assert "remote function" in repr(power)
    assert pi.run(power, 3) == 27


def test_what_it_uses_is_looked_up_at_each_call(pi: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pi.run(triple, 2) == 6
    monkeypatch.setitem(globals(), "FACTOR", 10)
    assert pi.run(triple, 2) == 20
    far = pi.evaluate("object()")
    assert pi.run(lambda one: one is far, far) is True


def test_its_errors_show_its_lines(pi: Remote) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        pi.run(fails, 1)
    assert "1 / y  # this line" in caught.value.traceback
    assert "test_remote_functions.py" in caught.value.traceback
    line = fails.__code__.co_firstlineno + 2
    assert f"{line}" in caught.value.traceback


REFUSED: list[tuple[Any, str]] = [
    (uses_a_lock, r"uses_a_lock uses LOCK, .*lock is not plain data; make it inside the function"),
    (uses_it_deeply, r"uses_it_deeply\.uses_a_lock uses LOCK"),
    (LOCK.acquire, r"not a function with source"),
    (eval("lambda: 1"), r"source of .*lambda.* cannot be read.*; define it in a file or a notebook's cell"),
    (3, r"not a function with source"),
]


def test_what_cannot_go_is_refused_before_anything_is_sent(pi: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*args: Any, **fields: Any) -> Any:
        raise AssertionError("something was sent")

    monkeypatch.setattr(pi.session, "request", nothing)
    for function, words in REFUSED:
        with pytest.raises(CannotTravel, match=words) as caught:
            pi.run(function)
        assert "\n" not in str(caught.value)
    monkeypatch.undo()


def test_a_function_that_is_not_in_its_file_any_more() -> None:
    changed = make_adder(1)
    changed.__code__ = changed.__code__.replace(co_firstlineno=1)
    with pytest.raises(CannotTravel, match="not in its file any more"):
        Shipment(lambda one: None).entry(changed)


def test_what_the_far_side_lacks(pi: Remote, old: Remote) -> None:
    def modern(x: int) -> int:
        if (n := x) > 0:
            return n
        return 0

    assert pi.run(modern, 3) == 3
    with pytest.raises(CannotTravel, match="does not know the syntax of modern"):
        old.run(modern, 3)
    assert old.run(uses_names, 4) == uses_names(4)
    assert old.run(make_adder(1), 2) == 3

    def wants_numpy() -> Any:
        import numpy

        return numpy.zeros(1)

    with pytest.raises(RemoteError, match="No module named 'numpy'"):
        old.run(wants_numpy)


@pytest.fixture
def old(flame_server: Callable[..., FlameServer], oldest_python: Python) -> Iterator[Remote]:
    """A connection to one on the oldest Python."""
    with flame.connect(flame_server(oldest_python).location, shell="mini") as connected:
        yield connected
