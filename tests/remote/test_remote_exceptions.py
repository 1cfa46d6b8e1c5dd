"""Exceptions between the two sides: their class, arguments and attributes are what they are where they were raised."""

from __future__ import annotations

import json
import queue
import re
import socket
import subprocess
import sys
import traceback
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest

from flame_kernel.agent.wire import values
from flame_kernel.errors import FlameError, RemoteError
from flame_kernel.remote.exceptions import _BUILTIN, _GROUP, Known, of_call, raised_there
from flame_kernel.remote.records import class_key
from flame_kernel.remote.remote import Remote

THERE = """
import contextlib
class Manager:
    seen = None
    def __init__(self, verdict=True):
        self.verdict = verdict
    def __enter__(self):
        return self
    def __exit__(self, kind, error, tb):
        told = {name: getattr(error, name, None) for name in ("errno", "filename", "code", "b", "pos", "returncode")}
        told["class"] = kind.__name__
        told = {k: v for k, v in told.items() if v is not None}
        Manager.seen = (error.args, str(error), isinstance(error, kind), told)
        return self.verdict
class Theirs(Exception):
    pass
def raises():
    raise Theirs("there", 3)
@contextlib.contextmanager
def guarded():
    try:
        yield 5
    except ValueError as e:
        print("stopped", e)
"""


class Mine(Exception):
    def __init__(self, a: str, *, b: int = 2) -> None:
        super().__init__(a)
        self.b = b

    def __str__(self) -> str:
        return f"<{self.args[0]} {self.b}>"


class MineOfOs(OSError):
    def __init__(self, *args: Any, b: int = 1) -> None:
        super().__init__(*args)
        self.b = b


class MineOfKey(KeyError):
    pass


class MineInSlots(Exception):
    __slots__ = ("b",)
    b: Any


def raise_mine() -> None:
    raise Mine("x", b=9)


def raise_os() -> None:
    raise MineOfOs(2, "no", "file", b=5)


def raise_key() -> None:
    raise MineOfKey("kk")


def raise_slots() -> None:
    error = MineInSlots("s")
    error.b = [4]
    raise error


def raised(function: Callable[[], Any]) -> Any:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def pi(pi: Remote) -> Remote:
    """A connection to a stock server, with what THERE defines."""
    pi.execute(THERE)
    return pi


@pytest.fixture
def oldest(oldest: Remote) -> Remote:
    """The same on the oldest Python."""
    oldest.execute(THERE)
    return oldest


def test_a_class_that_travelled_is_the_same_here(pi: Remote, oldest: Remote) -> None:
    for one in (pi, oldest):
        error = raised(lambda one=one: one.run(raise_mine))
        assert type(error) is Mine
        assert (error.args, error.b, str(error)) == (("x",), 9, "<x 9>")
        assert any("raise_mine()" in note for note in error.__notes__)
        error = raised(lambda one=one: one.run(raise_os))
        assert type(error) is MineOfOs
        assert (error.args, error.errno, error.filename, error.b) == ((2, "no"), 2, "file", 5)
        error = raised(lambda one=one: one.run(raise_key))
        assert type(error) is MineOfKey
        assert (error.args, str(error)) == (("kk",), "'kk'")
        error = raised(lambda one=one: one.run(raise_slots))
        assert (type(error), error.args, error.b) == (MineInSlots, ("s",), [4])


CASES: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("{}['k']", KeyError, "'k'", {"args": ("k",)}),
    ("open('/nonexistent')", FileNotFoundError, "[Errno 2] No such file or directory: '/nonexistent'", {"errno": 2}),
    ("import json; json.loads('{')", json.JSONDecodeError, "property name", {"pos": 1, "doc": "{", "lineno": 1}),
    (
        "import subprocess; subprocess.run(['false'], check=True)",
        subprocess.CalledProcessError,
        "non-zero exit status 1",
        {"returncode": 1, "cmd": ["false"], "output": None},
    ),
    ("import nope_zz", ModuleNotFoundError, "No module named 'nope_zz'", {"name": "nope_zz"}),
    ("undefined_zz", NameError, "name 'undefined_zz' is not defined", {"name": "undefined_zz"}),
    ("(1).foo", AttributeError, "'int' object has no attribute 'foo'", {"name": "foo", "obj": 1}),
    ("e = ValueError('a', 3); e.more = [1, {}]; raise e", ValueError, "('a', 3)", {"args": ("a", 3), "more": [1, {}]}),
    ("import urllib.request as u; u.urlopen('http://127.0.0.1:1')", urllib.error.URLError, "refused", {}),
]


@pytest.mark.parametrize(("code", "kind", "words", "facts"), CASES, ids=[kind.__name__ for _, kind, _, _ in CASES])
def test_what_both_sides_know_is_what_it_is(
    pi: Remote, code: str, kind: type[Exception], words: str, facts: dict[str, Any]
) -> None:
    error = raised(lambda: pi.execute(code))
    assert isinstance(error, kind)
    assert isinstance(error, RemoteError)
    assert type(error).__name__ == kind.__name__
    assert str(error) == error.evalue
    assert words in str(error)
    assert "On the far side" not in str(error.args)
    assert {name: getattr(error, name) for name in facts} == facts
    printed = "".join(traceback.format_exception(error))
    assert f"{kind.__name__}: {error.evalue}" in printed
    if sys.version_info >= (3, 11):
        assert "On the far side:\n" in printed


def test_of_a_class_that_is_not_here(pi: Remote) -> None:
    error = raised(pi["raises"])
    assert type(error).__name__ == "RemoteError"
    assert (error.args, str(error), error.ename) == (("there", 3), "('there', 3)", "__main__.Theirs")
    error = raised(lambda: pi.execute("import sys; sys.exit(3)"))
    assert (error.code, error.args) == (3, (3,))
    held = raised(lambda: pi.execute("raise ValueError(object(), 1)"))
    assert "object object" in repr(held.args[0])
    assert held.args[1] == 1
    assert pi.builtins.type(held.args[0]).__name__ == "object"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_groups(pi: Remote) -> None:
    group: Any = raised(lambda: pi.execute("raise ExceptionGroup('all', [ValueError('a'), KeyError('k')])"))
    assert isinstance(group, ExceptionGroup)  # type: ignore[name-defined]  # noqa: F821
    assert [type(one).__name__ for one in group.exceptions] == ["ValueError", "KeyError"]
    assert group.message == "all"
    assert group.exceptions[1].args == ("k",)
    rest = group.split(ValueError)[1]
    assert len(rest.exceptions) == 1


def seen(pi: Remote, error: BaseException) -> Any:
    with pi["Manager"]():
        raise error
    return pi.evaluate("Manager.seen")


def test_with_hands_the_exception_over_as_it_is(pi: Remote) -> None:
    assert seen(pi, FileNotFoundError(2, "no", "f")) == (
        (2, "no"),
        "[Errno 2] no: 'f'",
        True,
        {"class": "FileNotFoundError", "errno": 2, "filename": "f"},
    )
    assert seen(pi, raised(raise_slots)) == (("s",), "s", True, {"class": "MineInSlots", "b": [4]})
    assert seen(pi, SystemExit(3)) == ((3,), "3", True, {"class": "SystemExit", "code": 3})
    assert seen(pi, KeyboardInterrupt()) == ((), "", True, {"class": "KeyboardInterrupt"})
    assert seen(pi, Mine("y", b=4)) == (("y",), "<y 4>", True, {"class": "Mine", "b": 4})
    assert seen(pi, raised(lambda: json.loads("{")))[3] == {"class": "JSONDecodeError", "pos": 1}
    assert seen(pi, subprocess.CalledProcessError(3, ["x"]))[3] == {"class": "CalledProcessError", "returncode": 3}
    assert seen(pi, UnicodeDecodeError("utf-8", b"x", 0, 1, "why"))[0] == ("utf-8", b"x", 0, 1, "why")
    assert seen(pi, raised(lambda: pi.run(raise_mine))) == (("x",), "<x 9>", True, {"class": "Mine", "b": 9})
    assert seen(pi, raised(pi["raises"]))[3] == {"class": "Theirs"}


def test_classes_that_other_pythons_name_otherwise() -> None:
    for module, name, kind in (
        ("sre_constants", "error", re.error),
        ("re", "PatternError", re.error),
        ("queue", "Empty", queue.Empty),
        ("socket", "timeout", socket.timeout),
        ("concurrent.futures._base", "TimeoutError", TimeoutError),
    ):
        assert isinstance(raised_there({"ename": "e", "evalue": "e", "classes": [[module, name]]}, {}), kind)
        assert type(Known().exception([[None, module, name]], "e", {})) is kind


def test_with_takes_the_verdict(pi: Remote) -> None:
    mine = Mine("z")
    with pytest.raises(Mine) as caught, pi["Manager"](False):
        raise mine
    assert caught.value is mine
    there: Any = pi.modules.contextlib
    with there.suppress(pi.builtins.ValueError):
        json.loads("{")
    with there.suppress(pi["Theirs"]):
        pi["raises"]()
    with there.suppress(Mine):
        raise Mine("q")
    with pytest.raises(Mine), there.suppress(MineOfKey):
        raise Mine("q")
    with pi["guarded"]() as five:
        assert five == 5
        raise ValueError("stop")


# -- what a server may not ---------------------------------------------------------------------------------------------


class Runs(Exception):
    """Of which nothing may run because a server says so."""

    ran: list[str] = []  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        Runs.ran.append("a class was derived")

    def __new__(cls, *args: Any) -> Any:
        Runs.ran.append("made")
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        Runs.ran.append("initialised")

    def __setattr__(self, name: str, value: Any) -> None:
        Runs.ran.append("set")


def test_nothing_of_a_class_runs_because_a_server_names_it() -> None:
    Runs.ran.clear()
    place = [Runs.__module__, "Runs"]
    facts = {"args": ("a",), "attributes": {"x": 1, "__class__": 3, "args": 4, "with_traceback": 5}}
    error = of_call({"ename": "Runs", "evalue": "e", "classes": [place], "key": "0" * 32}, facts)
    assert not isinstance(error, Runs)
    own: Any = of_call({"ename": "Runs", "evalue": "e", "classes": [place], "key": class_key(Runs)}, facts)
    assert type(own) is Runs
    assert (own.args, own.__dict__["x"], callable(own.with_traceback)) == (("a",), 1, True)
    assert Runs.ran == []


def test_nothing_of_a_class_runs_for_an_exception_that_is_a_value() -> None:
    Runs.ran.clear()

    def read(classes: Any, text: Any = "e", facts: Any = None) -> Any:
        known = Known()
        tree = {"rx": [classes, text, {"m": {"args": {"t": ["a"]}, **(facts or {})}}]}
        return values.decode([json.dumps(tree).encode()], None, None, known), known.all

    error, is_known = read([["0" * 32, Runs.__module__, "Runs"], [None, "builtins", "ValueError"]])
    assert (isinstance(error, Runs), isinstance(error, ValueError), is_known) == (False, True, False)
    error, is_known = read([[class_key(Runs), "any", "name"]], facts={"attributes": {"m": {"x": 1, "args": 4}}})
    assert (type(error), error.args, error.__dict__, is_known) == (Runs, ("a",), {"x": 1}, True)
    assert Runs.ran == []
    for module, name in (("builtins", "SystemExit"), ("flame_kernel.errors", "SessionGone"), ("os", "system")):
        error, is_known = read([[None, module, name]])
        assert (type(error).__name__, is_known) == ("RemoteError", False)
    many = [{"rx": [[[None, "a", str(number)]], "e", {"m": {}}]} for number in range(3000)]
    assert len(values.decode([json.dumps(many).encode()], None, None, Known())) == 3000
    for classes, text in (([], "e"), ([["k", 1, 2]], "e"), ("os", "e"), ([[None, "os", "x"]] * 101, "e"), (None, 3)):
        with pytest.raises(values.BadValue):
            read(classes, text)
    with pytest.raises(values.BadValue, match="none is allowed"):
        values.decode([json.dumps(many[0]).encode()])


def test_what_is_named_is_no_error_of_ours_and_ends_nothing() -> None:
    for module, name in (
        ("builtins", "SystemExit"),
        ("builtins", "eval"),
        ("flame_kernel.errors", "SessionGone"),
        ("asyncio.exceptions", "CancelledError"),
        ("os", "system"),
        ("not_loaded_anywhere", "Error"),
        (__name__, "Mine.b"),
    ):
        error = raised_there({"ename": "X", "evalue": "y", "classes": [[module, name]], "bases": []}, {})
        assert type(error).__name__ == "RemoteError", name
    for content in ({"classes": 3}, {"classes": [3, ["a"], [1, 2]]}, {"key": 3}, {"key": class_key(str)}, {}):
        assert isinstance(of_call(content, {"attributes": 3, "notes": 3, "members": 3}), FlameError)
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"members": [[{"classes": [["builtins", "ExceptionGroup"]]}, deep]] * 40, "message": "m"}
    raised_there({"classes": [["builtins", "ExceptionGroup"]]}, deep)


def test_every_built_in_class_is_itself_here(lasting: Remote) -> None:
    apart = {
        UnicodeDecodeError: "'u', b'x', 0, 1, 'r'",
        UnicodeEncodeError: "'u', 'x', 0, 1, 'r'",
        UnicodeTranslateError: "'x', 0, 1, 'r'",
    }
    for name, kind in _BUILTIN.items():
        arguments = "'m', [ValueError(1)]" if name == "ExceptionGroup" else apart.get(kind, "'m'")
        with pytest.raises(kind) as caught:
            lasting.execute(f"raise {name}({arguments})")
        assert isinstance(caught.value, RemoteError), name
    with pytest.raises(MemoryError):
        lasting.evaluate("bytearray(1 << 62)")
    with pytest.raises(MemoryError, match="Unable to allocate"):
        lasting.modules.numpy.zeros(1 << 50)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no exception groups before 3.11")
def test_a_class_that_travelled_is_the_same_in_a_group(pi: Remote) -> None:
    def raises() -> None:
        raise _GROUP("several", [Mine("a", b=3), ValueError(2)])

    with pytest.raises(_GROUP) as caught:
        pi.run(raises)
    first, second = caught.value.exceptions
    assert type(first) is Mine
    assert (first.args, first.b) == (("a",), 3)
    assert isinstance(second, ValueError)
