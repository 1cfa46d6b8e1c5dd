"""What RPyC's and Pyro's own examples and tests show, done with ours: each is written anew, named by what it shows.

Where the answer differs, because a value comes as a copy where RPyC gives a reference, the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flame_kernel.errors import CallTimeout, RemoteError
from flame_kernel.remote.proxy import RemoteObject
from flame_kernel.remote.remote import Remote


@pytest.fixture
def pi(lasting: Remote) -> Remote:
    """One connection for all tests here."""
    return lasting


# -- RPyC ------------------------------------------------------------------------------------------------------------


def test_rpyc_classic_modules_execute_eval_and_namespace(pi: Remote) -> None:
    sys_there = pi.modules.sys
    assert sys_there.getrecursionlimit() == 1000
    sys_there.path.append("/nowhere/here")
    assert "/nowhere/here" in pi.evaluate("__import__('sys').path")
    assert "/nowhere/here" not in sys.path
    sys_there.path.remove("/nowhere/here")
    assert pi.modules["xml.dom.minidom"].parseString("<a/>").firstChild.tagName == "a"
    pi.execute("def doubled(x): return 2 * x")
    assert pi["doubled"](4) == pi.evaluate("doubled(4)") == 8
    pi["foo"] = [1]
    pi.execute("foo.append(2)")
    assert pi["foo"] == [1, 2]
    with pytest.raises(AttributeError):
        _ = pi.modules.sys.no_such_attribute


def test_rpyc_what_a_remote_prints_appears_here(pi: Remote) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        pi.builtins.print("printed there")
        pi.execute("import sys; sys.stdout.write('and written\\n')")
    assert out.getvalue() == "printed there\nand written\n"


def test_rpyc_monkey_patching_a_module_there(pi: Remote) -> None:
    pi.modules.socket.where_from = "here"
    assert pi.evaluate("__import__('socket').where_from") == "here"
    del pi.modules.socket.where_from
    assert not hasattr(pi.modules.socket, "where_from")


def test_rpyc_teleported_functions(pi: Remote) -> None:
    def area(radius: float) -> float:
        import math

        return math.pi * radius**2

    def with_defaults(a: int, b: int = 2, *c: int, d: int = 4, **e: int) -> tuple[Any, ...]:
        return a, b, c, d, e

    assert pi.run(area, 1.0) == pytest.approx(3.14159265)
    assert pi.run(with_defaults, 1, 3, 5, d=6, z=7) == (1, 3, (5,), 6, {"z": 7})
    pi["area"] = area  # and it stays there under a name
    assert pi.evaluate("area(2.0)") == pytest.approx(4 * 3.14159265)


def test_rpyc_callbacks_during_a_call(pi: Remote) -> None:
    """A file monitor that reports: the far side calls what stays here while the call runs."""

    def watch(report: Any, times: int) -> int:
        for at in range(times):
            report("changed", at)
        return times

    seen: list[Any] = []
    assert pi.run(watch, pi.on(lambda *what: seen.append(what)), 3) == 3
    assert seen == [("changed", 0), ("changed", 1), ("changed", 2)]


def test_rpyc_a_callback_calls_back(pi: Remote) -> None:
    """Both sides in turn, as RPyC's recursive calls."""

    def countdown(n: int, other: Any) -> int:
        return 0 if n == 0 else 1 + other(n - 1)

    def here(n: int) -> Any:
        return pi.run(countdown, n, pi.on(here))

    assert here(5) == 5


def test_rpyc_exceptions_cross_with_their_class_and_the_remote_traceback(pi: Remote) -> None:
    pi.execute("def broken():\n    return {}['nope']")
    with pytest.raises(KeyError) as caught:
        pi["broken"]()
    assert caught.value.args == ("nope",)
    assert isinstance(caught.value, RemoteError)
    assert "return {}['nope']" in "".join(caught.value.__notes__)
    pi.execute("class Custom(Exception):\n    def __init__(s, a): super().__init__(a); s.extra = a * 2")
    with pytest.raises(RemoteError) as other:  # a class that only the far side has
        pi.execute("raise Custom(4)")
    assert (other.value.ename.rpartition(".")[2], other.value.args, vars(other.value)["extra"]) == ("Custom", (4,), 8)


def test_rpyc_context_managers(pi: Remote) -> None:
    pi.execute(
        "class Guard:\n    on = False\n"
        "    def __enter__(s): s.on = True; return s\n"
        "    def __exit__(s, k, e, t): s.on = False; s.seen = k and (k.__name__, e.args); return k is ValueError"
    )
    guard = pi.evaluate("Guard()")
    with guard as entered:
        assert entered.on
        raise ValueError("swallowed there")
    assert (guard.on, guard.seen) == (False, ("ValueError", ("swallowed there",)))
    with pytest.raises(ZeroDivisionError), guard:
        _ = 1 / 0


def test_rpyc_iterators_and_generators_both_ways(pi: Remote) -> None:
    pi.execute("def count():\n    n = 0\n    while True:\n        step = yield n\n        n += step or 1")
    counter = pi["count"]()
    assert [next(counter), next(counter), counter.send(10), next(counter)] == [0, 1, 11, 12]
    counter.close()
    with pytest.raises(StopIteration):
        next(counter)
    assert pi.run(lambda items: [2 * one for one in items], (n for n in range(4))) == [0, 2, 4, 6]
    assert dict(pi.evaluate("{n: str(n) for n in range(3)}", ref=True).items()) == {0: "0", 1: "1", 2: "2"}


def test_rpyc_special_methods_and_identity(pi: Remote) -> None:
    there = pi.evaluate("[3, 1, 2]", ref=True)
    assert (len(there), there[0], list(there), sorted(there), 3 in there) == (3, 3, [3, 1, 2], [1, 2, 3], True)
    there[0] = 9
    del there[1]
    there += [5]
    assert there.fetch() == [9, 2, 5]  # fetch is RPyC's obtain
    assert there == pi.run(lambda one: one, there)
    pi["again"] = there
    assert pi.run(lambda one, two: one is two, there, pi.evaluate("again", ref=True))
    assert isinstance(there, list)
    assert isinstance(there, RemoteObject)
    assert sorted(dir(there))[-3:] != []
    assert there.append.__name__ == "append"


def test_rpyc_asynchronous_calls(pi: Remote) -> None:
    """RPyC's ``async_``: the call runs there while this side goes on; ours are a thread, a batch or an await."""
    pi.execute(
        "import threading, asyncio\ngo = threading.Event()\nasync def slow():\n    await asyncio.sleep(0); return 7"
    )
    done: list[Any] = []
    waits = threading.Thread(target=lambda: done.append(pi["go"].wait(60)))
    waits.start()
    pi["go"].set()
    waits.join(60)
    assert done == [True]
    with pi.batch() as batch:
        futures = [batch.evaluate(f"{n} ** 2") for n in range(4)]
    assert [one.result() for one in futures] == [0, 1, 4, 9]

    async def main() -> Any:
        return await asyncio.gather(*(pi["slow"]() for _ in range(3)))

    assert asyncio.run(main()) == [7, 7, 7]


def test_rpyc_upload_download_and_packages(pi: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a.txt").write_text("content")
    there = pi.modules.tempfile.mkdtemp()
    try:
        pi.put(tmp_path / "up", dst=there + "/")
        pi.get(f"{there}/up", dst=tmp_path / "down")
        assert (tmp_path / "down" / "a.txt").read_text() == "content"
    finally:
        pi.modules.shutil.rmtree(there)
    package = tmp_path / "uploaded_example"
    package.mkdir()
    (package / "__init__.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    pi.sendmodule("uploaded_example")
    assert pi.modules.uploaded_example.answer() == 42


# -- Pyro ------------------------------------------------------------------------------------------------------------


class Warehouse:
    """Pyro's warehouse: an object that lives there and is visited from here."""

    def __init__(self) -> None:
        self.contents = ["chair", "lamp"]

    def take(self, name: str, item: str) -> None:
        self.contents.remove(item)
        print(f"{name} took the {item}.")

    def store(self, name: str, item: str) -> None:
        self.contents.append(item)
        print(f"{name} stored the {item}.")


class NotEnough(Exception):
    """Pyro's banks: an exception of ours with a state of its own."""

    def __init__(self, missing: decimal.Decimal) -> None:
        super().__init__(f"{missing} too little")
        self.missing = missing


def test_pyro_warehouse(pi: Remote) -> None:
    warehouse = pi.run(Warehouse)
    assert isinstance(warehouse, Warehouse)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        warehouse.store("Janet", "couch")
        warehouse.take("Janet", "lamp")
    assert out.getvalue() == "Janet stored the couch.\nJanet took the lamp.\n"
    assert warehouse.contents == ["chair", "couch"]
    with pytest.raises(ValueError, match="not in list"):
        warehouse.take("Janet", "nothing")


def test_pyro_banks_and_its_exceptions(pi: Remote) -> None:
    def withdraw(amount: decimal.Decimal) -> None:
        if amount > 100:
            raise NotEnough(amount - 100)

    pi.run(withdraw, decimal.Decimal("99.99"))
    with pytest.raises(NotEnough) as caught:
        pi.run(withdraw, decimal.Decimal("100.50"))
    assert (caught.value.missing, str(caught.value)) == (decimal.Decimal("0.50"), "0.50 too little")
    assert any("On the far side" in note for note in caught.value.__notes__)


def test_pyro_stockquotes_streams_from_a_generator(pi: Remote) -> None:
    """Items come as they are made; the generator there ends when the one here is dropped."""

    def quotes(symbols: list[str]) -> Iterator[tuple[str, int]]:
        n = 0
        while True:
            for one in symbols:
                yield one, n
                n += 1

    stream = pi.run(quotes, ["AAPL", "CSCO"])
    found = [one for one, _ in zip(stream, range(5), strict=False)]
    assert found[:3] == [("AAPL", 0), ("CSCO", 1), ("AAPL", 2)]


def test_pyro_callbacks_and_a_deadlock_that_is_none(pi: Remote) -> None:
    class Handler:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def call(self, count: int) -> str:
            self.got.append((count, threading.current_thread() is threading.main_thread()))
            return f"{count} {pi.evaluate('1 + 1')}"  # the connection is free for more while its call runs

    handler = Handler()
    assert pi.run(lambda report: [report(n) for n in range(2)], handler.call) == ["0 2", "1 2"]
    assert handler.got == [(0, True), (1, True)]
    with pytest.raises(LookupError, match="from the client"):
        pi.run(lambda report: report(), pi.on(raising))


def raising() -> None:
    raise LookupError("from the client")


def test_pyro_batched_calls_and_many_threads(pi: Remote) -> None:
    pi.execute("total = 0\nlock = threading.Lock()\ndef add(n):\n    global total\n    with lock:\n        total += n")
    with pi.batch() as batch:
        for n in range(20):
            batch.evaluate(f"add({n})")
    threads = [threading.Thread(target=lambda: [pi["add"](1) for _ in range(5)]) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert pi["total"] == 190 + 20


def test_pyro_values_of_all_kinds(pi: Remote) -> None:
    """Pyro's timezones, unicode, circular and blob examples: what its serializers change, arrives as it was."""
    zone = datetime.timezone(datetime.timedelta(hours=2), "X")
    values: dict[str, Any] = {
        "time": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, zone),
        "text": "häß € \U0001f600 \0 \ud800",
        "blob": bytes(range(256)) * 1000,
        "keys": {(1, 2): {3}, None: frozenset([4])},
    }
    values["circular"] = [values]
    pi.push({"values": values})
    back = pi.pull(["values"])["values"]
    assert back["circular"][0] is back
    assert {name: back[name] for name in ("time", "text", "blob", "keys")} == {
        name: values[name] for name in ("time", "text", "blob", "keys")
    }


def test_pyro_attributes_and_what_is_private(pi: Remote) -> None:
    """Unlike an exposed Pyro class: all attributes can be got and set, as in Python."""
    pi.execute("class Thing:\n    sub = {'foo': [9, 8, 7]}\n    def __init__(s): s._hidden = 42")
    thing = pi.evaluate("Thing()")
    thing.new = "set from here"
    assert (thing.new, thing._hidden, thing.sub["foo"]) == ("set from here", 42, [9, 8, 7])
    with pytest.raises(AttributeError, match="other"):
        _ = thing.other


def test_pyro_flame_files_modules_and_a_timeout(pi: Remote) -> None:
    there = pi.modules.tempfile.mkdtemp()
    try:
        pi.sendfile(f"{there}/a.bin", b"\0\xff")
        assert pi.getfile(f"{there}/a.bin") == b"\0\xff"
    finally:
        pi.modules.shutil.rmtree(there)
    pi.sendmodule("flame_example_module", "def cube(n):\n    return n ** 3\n")
    assert pi.module("flame_example_module").cube(3) == 27
    assert "def cube" in pi.getmodule("flame_example_module")
    assert pi.evaluate("__import__('os').getpid()") != os.getpid()
    began = time.monotonic()
    with pytest.raises(CallTimeout):
        pi.evaluate("__import__('time').sleep(3600)", timeout=0.5)
    assert time.monotonic() - began < 60
    assert pi.evaluate("6 * 7") == 42
