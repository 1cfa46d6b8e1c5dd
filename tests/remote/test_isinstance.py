"""isinstance of a stand-in against classes of this side; and what a stand-in is to copy, pickle and weakref."""

from __future__ import annotations

import collections
import collections.abc
import copy
import functools
import gc
import io
import json
import numbers
import os
import pathlib
import pickle
import threading
import types
import weakref
from fractions import Fraction
from typing import Any

import pytest

from flame_kernel.remote.proxy import RemoteObject
from flame_kernel.remote.remote import Remote


class Mine:
    """A class that is sent."""

    def __init__(self, x: int = 0) -> None:
        self.x = x


class Grown(Mine, collections.UserDict[str, int]):
    """Another, with bases of both kinds."""


STAND_FOR: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "{'a': 1}": ((dict, collections.abc.Mapping), (list,)),
    "[1]": ((list, collections.abc.Sequence), (tuple,)),
    "range(3)": ((range,), (list,)),
    "iter([])": ((collections.abc.Iterator,), (list,)),
    "5": ((int, numbers.Integral), (bool,)),
    "pathlib.Path('.')": ((pathlib.PurePath, os.PathLike), (str,)),
    "threading.Event()": ((threading.Event,), ()),
    "type('Own', (threading.Thread,), {})()": ((threading.Thread,), (dict,)),
    "type('Own', (), {})()": ((object,), (dict, type)),
    "open(os.devnull)": ((io.TextIOBase, io.TextIOWrapper), ()),
    "ValueError(1)": ((ValueError, Exception), (OSError,)),
    "os": ((types.ModuleType,), (str,)),
    "Fraction(1, 2)": ((Fraction, numbers.Rational), (float,)),
}


def test_isinstance_knows_the_classes_that_are_loaded_here(pi: Remote) -> None:
    pi.execute("import os, pathlib, threading\nfrom fractions import Fraction")
    for expression, (yes, no) in STAND_FOR.items():
        stands = pi.evaluate(expression, ref=True)
        assert [kind for kind in yes if not isinstance(stands, kind)] == [], expression
        assert [kind for kind in no if isinstance(stands, kind)] == [], expression
        assert isinstance(stands, RemoteObject)


def test_isinstance_knows_the_classes_that_were_sent(pi: Remote) -> None:
    grown = pi.run(lambda: Grown(3))
    assert isinstance(grown, Grown)
    assert isinstance(grown, Mine)
    assert isinstance(grown, collections.abc.MutableMapping)
    assert not isinstance(pi.run(lambda: Mine(3)), Grown)

    @functools.singledispatch
    def say(one: Any) -> str:
        return "anything"

    say.register(Mine, lambda one: f"mine {one.x}")
    assert (say(grown), say(pi.evaluate("[]", ref=True))) == ("mine 3", "anything")


def test_a_stand_in_is_not_copied_or_pickled_but_may_be_referred_to_weakly(pi: Remote) -> None:
    stands = pi.evaluate("{'a': 1}", ref=True)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps, lambda one: pickle.dumps({"x": [one]}, 0)):
        with pytest.raises(TypeError, match=r"remote dict stays where it is: fetch\(\) brings its value"):
            attempt(stands)
    assert json.loads(json.dumps(stands.fetch())) == {"a": 1}
    kept = weakref.WeakValueDictionary({"it": stands})
    assert weakref.ref(stands)() is kept["it"] is stands
    del stands
    gc.collect()
    assert "it" not in kept
