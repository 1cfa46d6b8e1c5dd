"""Functions and iterators of this side that a call hands over: called back here, while that call runs and no longer."""

from __future__ import annotations

import asyncio
import http
import json
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import flame
from flame_kernel.errors import CannotTravel, UnsafeAnswer
from flame_kernel.remote.callbacks import Handed
from flame_kernel.remote.proxy import RemoteObject
from flame_kernel.remote.remote import Remote

seen: list[Any] = []
counter = 0
ORDER = {"a": 2, "b": 1}


class Keeper:
    def __init__(self) -> None:
        self.total = 0

    def add(self, x: int) -> int:
        self.total += x
        return self.total

    def __call__(self, x: int) -> tuple[str, int]:
        return "called", x


class Mine(Exception):
    pass


def report(x: Any) -> None:
    seen.append(x)


def bump(x: int) -> int:
    global counter
    counter += x
    return counter


def order(x: str) -> int:
    return ORDER[x]


def pid() -> int:
    return os.getpid()


def work(f: Callable[[int], Any], n: int = 3) -> list[Any]:
    return [f(i) for i in range(n)]


def once(f: Callable[..., Any], *args: Any) -> Any:
    return f(*args)


def on_a_thread(f: Callable[[int], Any]) -> list[Any]:
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(f(5)))
    thread.start()
    thread.join()
    return out


def catches(f: Callable[[int], Any]) -> str:
    try:
        f(1)
    except ValueError as error:
        return repr(error)
    return "nothing"


def first_three(items: Iterator[int]) -> list[int]:
    return [next(items) for _ in range(3)]


async def in_a_coroutine(f: Callable[[int], int]) -> int:
    await asyncio.sleep(0)
    return f(2)


def pickles(f: Callable[..., Any]) -> bytes:
    import pickle

    return pickle.dumps(f)


def fails(x: int) -> None:
    raise ValueError("mine", x)


def fails_in_its_own_way(x: int) -> None:
    raise Mine(x)


def numbers() -> Iterator[int]:
    yield from range(5)


def broken() -> Iterator[int]:
    yield 1
    raise ValueError("broken")


def test_what_changes_something_here_is_called_back(pi: Remote, oldest: Remote) -> None:
    for one in (pi, oldest):
        seen.clear()
        keeper, before = Keeper(), counter
        assert one.run(work, report) == [None] * 3
        assert one.run(work, seen.append) == [None] * 3
        assert seen == [0, 1, 2, 0, 1, 2]
        assert one.run(work, bump) == [before, before + 1, before + 3]
        assert counter == before + 3
        assert one.run(work, keeper.add) == [0, 1, 3]
        assert one.run(work, keeper, 1) == [("called", 0)]
        assert one.builtins.sorted([2, 1], key=lambda x: seen.append(("key", x)) or x) == [1, 2]  # type: ignore[func-returns-value]
        assert seen[-2:] == [("key", 2), ("key", 1)]
        assert one.run(on_a_thread, keeper.add) == [8]
        assert one.run(in_a_coroutine, bump) == counter


def test_what_changes_nothing_runs_there_unless_it_is_asked_for(pi: Remote) -> None:
    assert pi.builtins.sorted(["a", "b"], key=order) == ["b", "a"]
    assert pi.run(once, pid) == pi.modules.os.getpid()
    assert pi.run(once, pi.on(pid)) == os.getpid()
    with pytest.raises(TypeError, match="cannot be called"):
        pi.on(3)  # type: ignore[arg-type]


def test_arguments_and_results_travel_as_any(pi: Remote) -> None:
    assert pi.run(lambda f: f(a=1, b=[2]), pi.on(lambda **named: named)) == {"a": 1, "b": [2]}
    assert pi.run(lambda f: f(object()), pi.on(lambda one: "object" in repr(one))) is True
    assert pi.run(lambda f: f()(2), pi.on(lambda: lambda x: x + 1)) == 3
    large = b"x" * 3_000_000
    assert pi.run(lambda f: len(f(b"x" * 3_000_000)), pi.on(lambda data: data.fetch() + large)) == 6_000_000
    assert pi.run(work, pi.on(lambda x: pi.evaluate(f"1 + {x}"))) == [1, 2, 3]  # a call within the call


UNCHANGING = """
import collections, enum, http, json, threading, urllib.parse
class Theirs(enum.Enum):
    A = 1
Pair = collections.namedtuple("Pair", "a b")
def gives(function):
    status, address, lock = http.HTTPStatus(404), urllib.parse.urlparse("http://a/b"), threading.Lock()
    mixed = Pair(status, Theirs.A)
    error = json.JSONDecodeError("m", "{", 1)
    return function(status, [address, Theirs.A, status], mixed, urllib.parse.ParseResult(lock, *"bcdef"), error, mixed)
def fails():
    error = ValueError(1)
    error.status, error.theirs = http.HTTPStatus(404), Theirs.A
    raise error
"""


def test_what_does_not_change_comes_as_itself_where_its_class_is_known(pi: Remote) -> None:
    """Named tuples, enum members and exceptions; of an unknown class they stay there."""
    pi.execute(UNCHANGING)
    got: list[Any] = []
    pi["gives"](pi.on(lambda *args: got.extend(args)))
    status, (address, theirs, again), pair, half, error, same = got
    assert status is again is http.HTTPStatus.NOT_FOUND
    assert address == urllib.parse.urlparse("http://a/b")
    assert type(address) is urllib.parse.ParseResult
    assert [isinstance(one, RemoteObject) for one in (theirs, pair, half.scheme)] == [True] * 3
    assert pair is same
    assert type(half) is urllib.parse.ParseResult
    assert (pair.a, repr(theirs.name), half.netloc) == (status, "'A'", "b")
    assert type(error) is json.JSONDecodeError
    assert (error.pos, error.lineno) == (1, 1)
    with pytest.raises(ValueError, match="1") as caught:
        pi["fails"]()
    assert caught.value.status is status  # type: ignore[attr-defined]
    assert isinstance(caught.value.theirs, RemoteObject)  # type: ignore[attr-defined]


def test_exceptions_go_there_and_come_back_as_they_are(pi: Remote) -> None:
    assert pi.run(catches, pi.on(fails)) == "ValueError('mine', 1)"
    raised = Mine("this one")

    def raises(x: int) -> None:
        raise raised

    with pytest.raises(Mine) as caught:
        pi.run(work, pi.on(raises))
    assert caught.value is raised
    with pytest.raises(CannotTravel, match="lock is not plain"):
        pi.run(once, pi.on(threading.Lock))
    with pytest.raises(SystemExit):
        pi.run(once, pi.on(lambda: (_ for _ in ()).throw(SystemExit(3))))

    def stops(x: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pi.run(work, pi.on(stops))
    assert pi.evaluate("1") == 1


def test_iterators(pi: Remote, oldest: Remote) -> None:
    for one in (pi, oldest):
        assert one.builtins.sum(numbers()) == 10
        assert one.run(first_three, numbers()) == [0, 1, 2]
        assert one.builtins.list(x * 2 for x in range(1000)) == [x * 2 for x in range(1000)]
        assert one.builtins.list(map(str, [1, 2])) == ["1", "2"]
        assert one.builtins.dict(zip("ab", [1, 2], strict=True)) == {"a": 1, "b": 2}
        with pytest.raises(ValueError, match="broken"):
            one.builtins.list(broken())


def test_it_is_said_where_nothing_is_called_back(pi: Remote) -> None:
    with pytest.raises(
        RuntimeError, match=r"report is on the client's side.* while the call runs that it was given to"
    ):
        list(pi.builtins.map(report, [1]))
    with pytest.raises(CannotTravel, match=r"Keeper.add stays on this side and can only be called back, while a call"):
        pi.push({"f": Keeper().add})
    with pytest.raises(TypeError, match="is on the client's side, and stays there"):
        pi.run(pickles, pi.on(report))


def test_stop_ends_a_call_that_waits_for_one(pi: Remote) -> None:
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        pi.interrupt()

    with pytest.raises((KeyboardInterrupt, flame.RemoteError)):
        pi.run(lambda f: [f() for _ in range(1000)], pi.on(slow))
    assert begun.is_set()
    assert pi.evaluate("1") == 1


def test_nothing_else_is_called_because_a_server_says_so() -> None:
    called: list[Any] = []
    handed = Handed(lambda error: {})
    assert handed.add(called.append, "function") == ["callback", 0, "function", "list.append"]
    assert handed.add(iter([1]), "iterator")[:3] == ["callback", 1, "iterator"]
    arguments: Any = ((1,), {})
    for content in (
        {"callback": 2, "what": "call"},
        {"callback": -1, "what": "call"},
        {"callback": "0", "what": "call"},
        {"callback": 0, "what": "next"},
        {"callback": 1, "what": "call"},
        {},
    ):
        with pytest.raises(TypeError):
            handed.use(content, arguments)
    for wrong in ([[1], {}], [(1,), {1: 2}], [(1,), []]):
        with pytest.raises(TypeError):
            handed.use({"callback": 0, "what": "call"}, wrong)
    assert called == []
    assert handed.raised(0) is handed.raised("x") is handed.raised(True) is None


def test_a_server_that_calls_what_was_not_handed_over(pi: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pi._calls._called_back

    def hostile(event: Any, handed: Any) -> None:
        event["content"]["callback"] = 7
        real(event, handed)

    monkeypatch.setattr(pi._calls, "_called_back", hostile)
    with pytest.raises(UnsafeAnswer, match="was not handed over"):
        pi.run(work, pi.on(report))
    pi.interrupt()


class WithoutText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class NoText:
    def __str__(self) -> str:
        raise ValueError("no text")

    def __reduce__(self) -> str:
        raise ValueError("does not go")

    __repr__ = __str__


class NumberAsText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # what a user's class may do


def entangled() -> list[Exception]:
    one, other = ValueError(1), KeyError(2)
    one.args, one.__dict__["me"], other.__dict__["one"], one.__dict__["other"] = (one, [one]), one, one, other
    return [one, other]


def test_an_exception_without_a_text_or_inside_itself_comes_back_and_nothing_waits_for_ever(pi: Remote) -> None:
    failing = [WithoutText(1), NumberAsText(), ValueError(NoText()), StopIteration(NoText()), *entangled()]
    for one in failing:

        def fails(one: Exception = one) -> None:
            seen.append(one)
            raise one

        with pytest.raises(type(one)) as caught:
            pi.run(once, pi.on(fails))
        assert caught.value is one
        with pytest.raises(type(one)) as caught, pi.builtins.memoryview(b""):
            raise one
        assert caught.value is one
        assert pi.run(lambda one: type(one).__name__, one) == type(one).__name__
    pi.push({"one": entangled()[0]})
    assert pi.evaluate("one.me is one and one.other.one is one and 'ValueError(...)' in one.args[0]")


def test_a_value_that_cannot_be_sent_does_not_leave_the_far_side_waiting(flame_server: Callable[..., Any]) -> None:
    for trust in (False, True):
        with flame.connect(flame_server().location, shell="mini", trust=trust) as pi:

            def gives(x: int) -> NoText:
                seen.append(x)
                return NoText()

            with pytest.raises(CannotTravel):
                pi.run(once, pi.on(gives), 1)
            assert pi.evaluate("1 + 1") == 2


def test_notes_go_there_without_the_tracebacks_of_there(pi: Remote) -> None:
    error = ValueError(1)
    error.__dict__["__notes__"] = ["of here"]
    pi.push({"error": error})
    assert pi.evaluate("error.__notes__") == ["of here"]
    with pytest.raises(ValueError, match="1") as caught:
        pi.execute("def f():\n    raise error\nf()")
    back = caught.value.__dict__["__notes__"]
    assert back[0] == "of here"
    assert back[1].startswith("On the far side:")
    assert pi.run(lambda one: one.__notes__, caught.value) == ["of here"]
