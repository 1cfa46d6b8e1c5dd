"""Stand-ins for objects of the far side: what is done to them is done there, and nothing stays there for ever."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import operator
import os
import pickle
import pydoc
import threading
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import Future
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
from farside import FlameServer, wait_until

import flame
from flame_kernel.errors import CannotTravel, FlameError, ObjectGone, UnsafeAnswer
from flame_kernel.remote.proxy import RemoteObject, stand_in
from flame_kernel.remote.remote import Remote

FAR = '''
import collections, threading

class Box:
    """A box for tests."""
    shared = "of the class"

    def __init__(self, *items, **named):
        self.items = list(items)
        self.named = named
        self.fetch = "an attribute of that name"

    def __repr__(self):
        return "Box(%s)" % ", ".join(map(repr, self.items))

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def __getitem__(self, key):
        return self.items[key]

    def __setitem__(self, key, value):
        self.items[key] = value

    def __delitem__(self, key):
        del self.items[key]

    def __contains__(self, item):
        return item in self.items

    def __call__(self, *args, **kwargs):
        return args, kwargs

    def __enter__(self):
        self.entered = True
        return self

    def __exit__(self, kind, error, tb):
        self.left = None if kind is None else (kind.__name__, str(error))
        return kind is KeyError

    def method(self, a, b=2, *rest, key: int = 3) -> str:
        """Says what it was given."""
        return "%r %r %r %r" % (a, b, rest, key)

    def same(self, other):
        return self is other


class Number:
    def __init__(self, n):
        self.n = n

for name in "add sub mul truediv floordiv mod pow lshift rshift and or xor matmul divmod".split():
    def forward(self, other, name=name):
        return "%s %s %s" % (self.n, name, getattr(other, "n", other))

    def backward(self, other, name=name):
        return "%s r%s %s" % (self.n, name, getattr(other, "n", other))

    def inplace(self, other, name=name):
        self.n = "%s i%s %s" % (self.n, name, getattr(other, "n", other))
        return self

    setattr(Number, "__%s__" % name, forward)
    setattr(Number, "__r%s__" % name, backward)
    setattr(Number, "__i%s__" % name, inplace)
for name in "lt le gt ge".split():
    setattr(Number, "__%s__" % name, lambda self, other, name=name: "%s %s" % (name, getattr(other, "n", other)))
Number.__neg__ = lambda self: "neg"
Number.__pos__ = lambda self: "pos"
Number.__invert__ = lambda self: "invert"
Number.__abs__ = lambda self: "abs"
Number.__int__ = lambda self: 7
Number.__float__ = lambda self: 7.5
Number.__complex__ = lambda self: 7j
Number.__index__ = lambda self: 2
Number.__bool__ = lambda self: False
Number.__round__ = lambda self, digits=None: "round %s" % digits
Number.__format__ = lambda self, spec: "formatted " + spec
Number.__str__ = lambda self: "a number"
Number.__bytes__ = lambda self: b"bytes"


class Equal:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return self.n == getattr(other, "n", other)

    def __hash__(self):
        return hash(self.n)


class Unhashable:
    __eq__ = Equal.__eq__
    n = 1


def count(n):
    """Counts to n."""
    seen.append("begun")
    for i in range(n):
        seen.append(i)
        yield i

seen = []
box = Box(1, "two", [3])
'''


@pytest.fixture
def pi(pi: Remote) -> Remote:
    """A connection to a stock server, with what FAR defines."""
    pi.execute(FAR)
    return pi


def held(pi: Remote) -> int:
    """How many objects the far side holds for us, this question's own not among them."""
    count = "sum(len(o._held) for o in __import__('gc').get_objects() if type(o).__name__ == 'Objects')"
    return int(pi.evaluate(count))


def test_attributes_items_and_calls(pi: Remote) -> None:
    box = pi["box"]
    assert isinstance(box, RemoteObject)
    assert (box.shared, box.items, box.named) == ("of the class", [1, "two", [3]], {})
    box.colour = "red"
    assert pi.evaluate("box.colour") == "red"
    del box.colour
    assert not hasattr(box, "colour")
    assert (box[0], box[-1], box[0:2], box[::-1]) == (1, [3], [1, "two"], [[3], "two", 1])
    box[0] = {"a": (1,)}
    assert box[0] == {"a": (1,)}
    del box[0]
    assert len(box) == 2
    assert "two" in box
    assert "three" not in box
    with pytest.raises(IndexError):
        box[99]
    assert box(1, 2, a=3) == ((1, 2), {"a": 3})
    assert box.method("a", key=5) == "'a' 2 () 5"
    assert box.method(*["a", "b", "c"], key=1) == "'a' 'b' ('c',) 1"
    box.items.append("more")  # a chain acts there
    assert box[-1] == "more"
    assert pi["Box"](1).items == [1]
    assert pi["Box"].shared == "of the class"


def test_objects_as_arguments_are_the_objects_there(pi: Remote) -> None:
    box = pi["box"]
    assert box.same(box)
    assert not box.same(pi["Box"]())
    assert pi.evaluate("lambda pair: pair[0]['k'] is box")(({"k": box},))
    pi["again"] = box
    assert pi.evaluate("again is box")
    assert pi.builtins.isinstance(box, pi["Box"])


def test_what_stays_and_what_comes(pi: Remote) -> None:
    assert type(pi.modules.sys.maxsize) is int
    assert type(pi.evaluate("[1, (2,)]")) is list
    for expression in ("object()", "threading.Lock()", "[object()]", "len", "int", "collections", "iter([])"):
        assert isinstance(pi.evaluate(expression), RemoteObject), expression
    items = pi.evaluate("[1, 2]", ref=True)
    assert isinstance(items, RemoteObject)
    assert items.fetch() == [1, 2]
    items.append(3)
    assert items.fetch() == [1, 2, 3]
    assert isinstance(items.ref(), RemoteObject)
    small, large = pi.modules.numpy.zeros(10), pi.modules.numpy.zeros(10**6)
    assert isinstance(small, np.ndarray)
    assert isinstance(large, RemoteObject)
    assert (large.fetch() == 0).all()
    assert np.asarray(large).shape == (10**6,)
    assert isinstance(pi.builtins.bytes(40_000_000), RemoteObject)
    with pytest.raises(CannotTravel, match="trust=True"):
        pi["box"].fetch()
    # Chains outside of an assert, where pytest would take them apart.
    fetched, kept, path = pi.modules.numpy.zeros(4).fetch(), pi.modules.numpy.zeros(3).ref(), pi.modules.sys.path.ref()
    assert fetched.shape == (4,)
    assert kept.shape == (3,)
    assert path.fetch() == pi.modules.sys.path


def test_a_remote_attribute_that_is_called_as_ours(pi: Remote) -> None:
    assert pi.builtins.getattr(pi["box"], "fetch") == "an attribute of that name"
    box = pi["box"]
    box.ref = "of that name, too"
    assert pi.evaluate("box.ref") == "of that name, too"


ARITHMETIC = "add sub mul truediv floordiv mod pow lshift rshift and_ or_ xor matmul"


def test_operators(pi: Remote) -> None:
    for name in ARITHMETIC.split():
        function = getattr(operator, name)
        plain = name.rstrip("_")
        one, other = pi["Number"](1), pi["Number"](2)
        assert function(one, other) == f"1 {plain} 2"
        assert function(one, 3) == f"1 {plain} 3"
        assert function(3, one) == f"1 r{plain} 3"
        changed = getattr(operator, "i" + plain)(one, 3)
        assert isinstance(changed, RemoteObject)
        assert changed == one
        assert one.n == f"1 i{plain} 3"


def test_other_operators(pi: Remote) -> None:
    one = pi["Number"](1)
    assert (one < 2, one <= 2, one > 2, one >= 2) == ("lt 2", "le 2", "gt 2", "ge 2")
    assert (-one, +one, ~one, abs(one), divmod(one, 3)) == ("neg", "pos", "invert", "abs", "1 divmod 3")
    assert (int(one), float(one), complex(one), [0, 1, 2][one], bool(one)) == (7, 7.5, 7j, 2, False)
    assert (round(one), round(one, 2)) == ("round None", "round 2")
    assert (f"{one:>3}", str(one), bytes(one)) == ("formatted >3", "a number", b"bytes")
    with pytest.raises(TypeError):
        pi["box"] + 1
    assert bool(pi["box"])
    assert not pi["Box"]()


def test_equality_and_hashes(pi: Remote) -> None:
    box, again, other = pi["box"], pi["box"], pi["Box"]()
    assert box == again
    assert box != other
    assert hash(box) == hash(again)
    assert len({box, again, other}) == 2
    assert box != 1
    one, two = pi["Equal"](5), pi["Equal"](5)
    assert one == two
    assert hash(one) == hash(two)
    assert one == 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(pi["Unhashable"]())


def test_with(pi: Remote) -> None:
    box = pi["box"]
    with box as entered:
        assert entered == box
        assert box.entered
    assert box.left is None
    with pytest.raises(ValueError, match="mine"), box:
        raise ValueError("mine")
    assert box.left == ("ValueError", "mine")
    with box:
        raise KeyError("swallowed there")
    with pi.modules.tempfile.TemporaryDirectory() as folder:
        assert pi.modules.os.path.isdir(folder)
    assert not pi.modules.os.path.isdir(folder)


def test_iteration(pi: Remote) -> None:
    assert [item for item in pi["box"]] == [1, "two", [3]]  # noqa: C416
    assert list(pi.evaluate("collections.OrderedDict((i, i) for i in range(2000))")) == list(range(2000))
    threads = list(pi.modules.threading.enumerate())
    assert all(isinstance(thread, RemoteObject) and thread.name for thread in threads)
    mixed = list(pi.evaluate("iter([1, box, 'three', object()])"))
    assert [isinstance(one, RemoteObject) for one in mixed] == [False, True, False, True]
    failing = pi.evaluate("(1 // (3 - i) for i in range(9))")
    got: list[int] = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for item in failing:
            got.append(item)
    assert got == [0, 0, 1]
    with pytest.raises(TypeError, match="not iterable"):
        iter(pi.evaluate("object()"))
    assert list(reversed(pi.evaluate("collections.OrderedDict(a=1, b=2)"))) == ["b", "a"]


def test_a_generator_runs_there_as_it_is_asked(pi: Remote) -> None:
    numbers = pi["count"](10**9)
    assert pi["seen"] == []
    assert next(numbers) == 0
    assert pi["seen"] == ["begun", 0]
    taken = []
    for number in numbers:
        taken.append(number)
        if number == 5:
            break
    assert taken == [1, 2, 3, 4, 5]
    assert len(pi["seen"]) < 20  # it may be some items ahead
    assert numbers.gi_frame is not None
    numbers.close()
    assert list(numbers) == []


def test_a_slow_generator_is_not_waited_for(pi: Remote) -> None:
    """Each item comes when it is there, though the next one takes for ever."""
    pi.execute(
        "import time\ndef slowly():\n    for i in range(5):\n        yield i\n        time.sleep(0.05)\n"
        "    time.sleep(9)"
    )
    slow = iter(pi["slowly"]())
    assert [next(slow) for _ in range(3)] == [0, 1, 2]


def test_what_it_is_as_a_class(pi: Remote) -> None:
    box, plain, lock = pi["box"], pi.evaluate("object()"), pi.modules.threading.Lock()
    assert callable(box)
    assert callable(pi.modules.os.getpid.ref())
    assert not callable(plain)
    assert isinstance(box, Iterable)
    assert isinstance(box, Sized)
    assert not isinstance(plain, Iterable)
    assert not isinstance(lock, Iterable)
    with pytest.raises(TypeError):
        len(plain)
    with pytest.raises(TypeError):
        plain()


def test_how_it_looks(pi: Remote) -> None:
    box = pi["box"]
    assert repr(box) == f"<remote Box(1, 'two', [3]) at {pi.name}>"
    assert {"items", "method", "fetch", "ref"} <= set(dir(box))
    assert "getpid" in dir(pi.modules.os.ref())
    assert len(repr(pi.evaluate("[0] * 10**7", ref=True))) < 3000
    pi.execute("class Bad:\n    def __repr__(self): raise ValueError('no')\nbad = Bad()")
    assert "whose repr raises ValueError" in repr(pi["bad"])
    assert pi["box"].__doc__ == "A box for tests."
    assert str(inspect.signature(box.method)) == "(a, b=2, *rest, key: int = 3) -> str"
    for one, words in (
        (box.method, ("method(a, b=2, *rest, key: int = 3) -> str", "Says what it was given.")),
        (box, ("A box for tests.",)),
        (pi.modules.textwrap.ref(), ("Text wrapping and filling",)),
        (pi["Box"], ("A box for tests.",)),
    ):
        with redirect_stdout(io.StringIO()) as shown:
            pydoc.Helper(output=shown)(one)
        for word in words:
            assert word in shown.getvalue()


def test_what_a_notebook_shows(pi: Remote) -> None:
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    pi.execute("class Rich:\n    def _repr_html_(self): return '<b>bold</b><script>x</script>'\nrich = Rich()")
    shell = InteractiveShell()
    try:
        data, _ = shell.display_formatter.format(pi["rich"])
        assert "Rich object" in data["text/plain"]
        assert pi.name in data["text/plain"]
        assert "text/html" not in data  # this server has not proved who it is
        with flame.connect() as own:
            own.execute("class Rich:\n    def _repr_html_(self): return '<b>bold</b>'\nrich = Rich()")
            data, _ = shell.display_formatter.format(own["rich"])
            assert data["text/html"] == "<b>bold</b>"
        shell.push({"box": pi["box"], "pi": pi, "o": pi.modules.os})
        found = shell.object_inspect_mime("box")["text/plain"]
        assert "A box for tests." in found
        with provisionalcompleter():
            for typed, word in (("box.it", "items"), ("o.getpi", "getpid"), ('pi["bo', "box")):
                assert any(word in one.text for one in shell.Completer.completions(typed, len(typed))), typed
    finally:
        shell.atexit_operations()


def test_what_it_refuses(pi: Remote, flame_server: Callable[..., FlameServer]) -> None:
    box = pi["box"]
    for refused in (lambda: pickle.dumps(box), lambda: copy.copy(box), lambda: copy.deepcopy(box)):
        with pytest.raises(TypeError, match=r"stays where it is: fetch\(\)"):
            refused()
    with pytest.raises(AttributeError, match="__await__"):
        box.__await__()
    with pytest.raises(TypeError, match="path of the far side"):
        os.listdir(pi.modules.pathlib.Path("/etc").ref())
    with (
        flame.connect(flame_server().location, shell="mini") as other,
        pytest.raises(FlameError, match="does not go to"),
    ):
        other["box"] = box


def test_nothing_is_asked_by_those_who_only_look(pi: Remote) -> None:
    """Libraries try attributes on all they meet: that runs no code there, and asks nothing."""
    pi.execute(
        "asked = []\nclass Nosy:\n    def __getattr__(self, name):\n        asked.append(name)\n        return 1\n"
        "n = Nosy()"
    )
    nosy = pi["n"]
    for name in ("_repr_html_", "_ipython_display_", "__array_interface__", "__wrapped__", "__fspath__", "_repr_png_"):
        assert not hasattr(nosy, name)
    isinstance(nosy, Iterable)
    callable(nosy)
    assert pi["asked"] == []
    assert nosy.real == 1
    assert pi["asked"] == ["real"]


# -- the far side forgets --------------------------------------------------------------------------------------------


def test_objects_are_released_when_their_stand_ins_are(pi: Remote) -> None:
    pi.execute(
        "import weakref\nalive = weakref.WeakSet()\nclass Watched: pass\n"
        "def make():\n    w = Watched()\n    alive.add(w)\n    return w"
    )
    before = held(pi)
    several = [pi["make"]() for _ in range(20)]
    again = several[0].ref()
    assert pi.evaluate("len(alive)") == 20
    again = pi.evaluate("lambda x: x")(several[0])
    assert again == several[0]
    del several
    gc.collect()
    wait_until(lambda: pi.evaluate("len(alive)") == 1, "nineteen to be released")
    del again
    wait_until(lambda: pi.evaluate("len(alive)") == 0, "the last to be released")
    wait_until(lambda: held(pi) <= before, "nothing more to be held")


def test_they_are_released_without_another_call(pi: Remote) -> None:
    thread = threading.get_ident()
    sent: list[tuple[int, Any]] = []
    real = pi.session.request

    def watch(kind: str, request_id: str | None = None, **fields: Any) -> Any:
        sent.append((threading.get_ident(), fields.get("release")))
        return real(kind, request_id, **fields)

    pi.session.request = watch  # type: ignore[method-assign]
    for _ in range(100):
        pi.evaluate("object()")

    def released() -> list[str]:
        return [one for _, ids in sent for one in ids or ()]

    wait_until(lambda: len(released()) == 100, "all to be released")
    assert len(set(released())) == 100
    assert any(who != thread and ids for who, ids in sent)  # the last one, in the background
    assert len(sent) < 180  # most went with the next call


def test_a_destructor_blocks_nobody(pi: Remote) -> None:
    """Stand-ins die wherever the collector finds them: in a cycle, on any thread, within a call."""

    class Cycle:
        pass

    for _ in range(50):
        cycle = Cycle()
        cycle.me, cycle.far = cycle, pi.evaluate("object()")  # type: ignore[attr-defined]
    threads = [threading.Thread(target=gc.collect) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    assert pi.evaluate("1") == 1
    wait_until(lambda: held(pi) <= 2, "all to be released")


def test_the_session_ends_and_they_with_it(pi: Remote, flame_server: Callable[..., FlameServer]) -> None:
    box = pi["box"]
    pi.cell("import os; os._exit(0)", lambda event: None).exception(30)
    wait_until(lambda: pi.evaluate("1") == 1, "a fresh process")
    with pytest.raises(ObjectGone, match=r"is gone: its session ended; make it again"):
        box.items  # noqa: B018


# -- hostile answers -------------------------------------------------------------------------------------------------


class Answers:
    """In place of a session's ``request``: what a server might answer."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def __call__(self, *args: Any, **fields: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self.reply)
        return future


HOSTILE_REPLIES: list[Any] = [
    {},
    {"status": "ok"},
    {"status": "ok", "how": "anything"},
    {"status": "ok", "how": "value"},
    {"status": "ok", "how": "value", "buffers": [b"{"]},
    {"status": "ok", "how": "value", "buffers": [b'{"!":1}', pickle.dumps(print)]},
    {"status": "ok", "how": "held", "held": {}},
    {"status": "ok", "how": "held", "held": {"id": 1, "kind": "x", "class": "y", "protocol": []}},
    {"status": "ok", "how": "held", "held": {"id": "1", "kind": "x", "class": "y", "protocol": "__call__"}},
    {"status": "ok", "how": "items"},
    {"status": "ok", "how": "pieces", "ticket": "x", "sizes": [10**18]},
    {"status": "ok", "how": "pieces", "ticket": "x", "sizes": ["1"]},
    {"status": "ok", "how": "pieces", "ticket": "x", "sizes": [5]},
    {"status": "refused"},
    {"status": "error", "buffers": [b"{"]},
    {"status": ["error"]},
]


def test_a_hostile_reply_is_one_sentence(pi: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for reply in HOSTILE_REPLIES:
            patch.setattr(pi.session, "request", Answers(reply))
            with pytest.raises(UnsafeAnswer, match="refused an answer"):
                pi.evaluate("1")


def test_a_stand_in_has_no_method_that_a_server_names(pi: Remote) -> None:
    protocol = ["__reduce_ex__", "__class__", "__del__", "__getattribute__", "__call__", 3]
    one = stand_in(pi._calls, {"id": "x", "kind": "object", "class": "C", "protocol": protocol})
    assert type(one).__mro__[1] is RemoteObject
    assert "__del__" not in vars(type(one))
    assert "__getattribute__" not in vars(type(one))
    assert type(one).__reduce_ex__ is RemoteObject.__reduce_ex__
