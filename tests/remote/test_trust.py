"""With ``trust=True`` all that a pickle can carry travels, by the same calls; and what cannot is said, without advice
to do what has been done."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from farside import FlameServer, Python

import flame
from flame_kernel.errors import CannotTravel
from flame_kernel.remote.remote import Remote
from flame_kernel.security.trust import pickler


class Own:
    def __init__(self, x: Any) -> None:
        self.x = x
        self.peer: Any = None

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__["x"] == self.x

    __hash__ = None  # type: ignore[assignment]


class Dict(dict[str, int]):
    pass


class Text(str):
    __slots__ = ()


class Array(np.ndarray[Any, Any]):
    pass


@pytest.fixture
def remote(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    with flame.connect(flame_server().location, trust=True) as connected:
        yield connected


def round_trip(remote: Remote, value: Any) -> Any:
    remote.push({"v": value})
    return remote.pull(["v"])["v"]


VALUES: list[Any] = [
    Own(1),
    [Own(1), {"a": Own([2])}],
    Dict(a=1),
    Text("x"),
    re.compile("a+"),
    np.random.default_rng(0).bit_generator.state,
    types.SimpleNamespace(o=Own(3)),
    collections.deque([Own(1)], 3),
]


def test_what_is_not_plain_goes_as_a_pickle(remote: Remote) -> None:
    for value in VALUES:
        back = round_trip(remote, value)
        assert type(back) is type(value)
        assert back == value


def test_it_goes_beside_arrays_and_in_them(remote: Remote) -> None:
    array = np.array([1, Own(2), None], dtype=object)
    assert round_trip(remote, array).tolist() == array.tolist()
    frame = pd.DataFrame({"a": [Own(1), 2], "b": [1, 2]})
    back = round_trip(remote, frame)
    assert list(back["a"]) == list(frame["a"])
    assert list(back.dtypes) == list(frame.dtypes)
    beside = round_trip(remote, {"a": np.arange(9), "o": Own(5), "again": np.zeros(2, [(("title", "n"), "i4")])})
    assert beside["o"] == Own(5)
    assert beside["a"].tolist() == list(range(9))
    assert beside["again"].dtype.fields is not None
    special = round_trip(remote, np.arange(3).view(Array))
    assert type(special) is Array


def test_they_stay_the_same_things(remote: Remote) -> None:
    one, other = Own(1), Own(2)
    one.peer, other.peer = other, one
    back = round_trip(remote, [one, {"k": other}])
    assert back[0].peer is back[1]["k"]
    assert back[1]["k"].peer is back[0]
    loop: Any = (Own(1),)
    loop[0].x = loop
    assert round_trip(remote, loop)[0].x[0].x[0] is not None


def test_a_class_is_one_class_there_and_here(remote: Remote) -> None:
    def use(thing: Any) -> Any:
        return [isinstance(thing, Own), Own(thing.x + 1)]

    remote["own"] = Own(1)
    assert remote.evaluate("type(own)")  # by its source
    remote["made"] = remote.run(use, Own(7))
    first, second = remote.pull(["made"])["made"]
    assert first is True
    assert second == Own(8)
    assert type(second) is Own

    class Local:
        def __init__(self, v: int) -> None:
            self.v = v

    back = round_trip(remote, Local(4))
    assert type(back) is Local
    assert back.v == 4


def test_arguments_and_results_of_calls(remote: Remote) -> None:
    remote.execute("def twice(thing, *, more): return [thing.x, more.x]")
    assert remote["twice"](Own(1), more=Own(2)) == [1, 2]
    remote["held"] = remote.evaluate("object()", ref=True)
    remote["pair"] = Own(remote.evaluate("held", ref=True))  # a stand-in within a pickle
    assert remote.evaluate("pair.x is held")


def test_functions_of_there_come(remote: Remote) -> None:
    remote.execute("class C:\n    def __init__(self, v): self.v = v\nc = C(3)\nf = lambda x: x * 2")
    assert remote.pull(["c"])["c"].v == 3
    assert remote.pull(["f"])["f"](4) == 8


def test_what_cannot_is_said_without_advice(remote: Remote) -> None:
    for value in ((one for one in [1]), np.array([1, "a", (one for one in [1])], dtype=object)):
        with pytest.raises(CannotTravel, match="a generator cannot be pickled") as caught:
            remote.push({"v": value})
        assert "trust" not in str(caught.value)
    remote.execute("import threading\nlock = [1, threading.Lock()]")
    with pytest.raises(CannotTravel, match="lock cannot be pickled") as caught:
        remote.pull(["lock"])
    assert "trust" not in str(caught.value)
    assert remote.evaluate("1") == 1


def test_a_class_that_is_not_here_is_named(remote: Remote) -> None:
    remote.execute(
        "import sys, types\nsys.modules['there_only'] = made = types.ModuleType('there_only')\n"
        "exec('class Box(list): pass', made.__dict__)\nbox = made.Box()\nclass Here(list): pass\nhere = Here()"
    )
    with pytest.raises(CannotTravel, match=r"No module named 'there_only'; have the module there_only here too"):
        remote.pull("box")
    with pytest.raises(CannotTravel, match=r"cannot be opened here: .*'there_only'"):
        remote.pull(["box", "here"])


def test_another_minor_version(flame_server: Callable[..., FlameServer], oldest_python: Python) -> None:
    """What has a source goes by that; what has none is refused, and why is said."""
    with flame.connect(flame_server(oldest_python).location, trust=True) as remote:
        assert round_trip(remote, [Own(1), Own([2])]) == [Own(1), Own([2])]
        remote.execute("class C: pass\nc = C()\nf = lambda: 1")
        for name in "cf":
            with pytest.raises(CannotTravel, match=r"cloudpickle could send it between equal Pythons") as caught:
                remote.pull([name])
            assert "trust" not in str(caught.value)


def test_without_cloudpickle_there(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    """The command that installs it is said."""
    blocked = tmp_path / "cloudpickle.py"
    blocked.write_text("raise ModuleNotFoundError('No module named cloudpickle', name='cloudpickle')")
    with flame.connect(flame_server().location, trust=True) as remote:
        remote.execute(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nsys.modules.pop('cloudpickle', None)")
        made: Any = eval("lambda x: x + 1")
        with pytest.raises(CannotTravel, match=r"not installed there: \S+ -m pip install cloudpickle"):
            remote.push({"v": [Own(1), type("Bare", (), {"f": made})()]})
        remote.execute("f = lambda: 1")
        with pytest.raises(CannotTravel, match=r"not installed there: \S+ -m pip install cloudpickle"):
            remote.pull(["f"])
        assert round_trip(remote, Own(1)) == Own(1)  # what does not need it


def test_pickles_are_of_those_who_trust_alone(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location) as remote:
        with pytest.raises(CannotTravel, match=r"Array is not plain data.*trust=True"):
            remote.push({"v": np.arange(3).view(Array)})
        remote.execute("class C: pass\nc = C()")
        with pytest.raises(CannotTravel, match=r"C is not plain data.*trust=True"):
            remote.pull(["c"])


def test_this_side_without_cloudpickle() -> None:
    code = "import sys; sys.modules['cloudpickle'] = None\nfrom flame_kernel.security import trust\n"
    code += "print(trust.pickler(list(sys.version_info), lambda one: None)([1])[:1])\n"
    code += "try: trust.pickler(list(sys.version_info), lambda one: None)(lambda: 1)\nexcept Exception as e: print(e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "-m pip install cloudpickle" in run.stdout


def test_other_pythons_are_named_only_where_they_are_the_reason() -> None:
    made: dict[str, Any] = {}
    exec("class Made: pass", made)
    dumps = pickler([3, 6, 15], lambda one: None)
    with pytest.raises(CannotTravel, match=r"between equal Pythons: here 3\.\d+, there 3\.6\)$"):
        dumps(made["Made"]())
    with pytest.raises(CannotTravel, match=r"cannot pickle '_thread\.lock' object$"):
        dumps(threading.Lock())
