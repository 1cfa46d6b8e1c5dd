"""What the caller does next, read from its bytecode: on every Python that the local side runs on."""

from __future__ import annotations

import subprocess
import textwrap

import farside
import pytest

from flame_kernel.remote import lookahead

CASES = textwrap.dedent(
    """
    import runpy, sys
    ahead = runpy.run_path(sys.argv[1])

    class Thing:
        def __init__(self):
            self.seen = []
        def __getattr__(self, name):
            self.seen.append((name, ahead["goes_on"](sys._getframe(1))))
            return self
        def __getitem__(self, key):
            self.seen.append((key, ahead["goes_on"](sys._getframe(1))))
            return self
        def __call__(self, *args, **kwargs):
            self.seen.append(("()", ahead["next_attribute"](sys._getframe(1))))
            return self

    def look(function):
        # Often, so that Python specialises the instructions: the reading must not depend on that.
        for _ in range(50):
            thing = Thing()
            function(thing)
        return thing.seen

    key = 3
    def stored(x): y = x.a
    def passed(x): return x.a
    def called(x): x.a(1)
    def called_with_keyword(x): x.a(1, k=2)
    def deep(x): x.a.b.c(1).d
    def item(x): return x.a["k"]
    def global_key(x): return x.a[key]
    def items(x): return x["a"]["b"]
    def fetched(x): return x.a(1).fetch()
    def assigned(x): x.a.b = 1
    def in_a_loop(x):
        for i in range(3):
            x.a.b

    assert look(stored) == [("a", False)], look(stored)
    assert look(passed) == [("a", False)], look(passed)
    assert look(called) == [("a", True), ("()", "")], look(called)
    assert look(called_with_keyword) == [("a", True), ("()", "")], look(called_with_keyword)
    assert look(deep) == [("a", True), ("b", True), ("c", True), ("()", "d"), ("d", False)], look(deep)
    assert look(item) == [("a", True), ("k", False)], look(item)
    assert look(global_key) == [("a", True), (3, False)], look(global_key)
    assert look(items) == [("a", True), ("b", False)], look(items)
    assert look(fetched) == [("a", True), ("()", "fetch"), ("fetch", True), ("()", "")], look(fetched)
    assert look(assigned)[0] == ("a", True), look(assigned)
    assert look(in_a_loop) == [("a", True), ("b", False)] * 3, look(in_a_loop)
    """
)


LOCAL = [python for python in farside.pythons() if python.version >= (3, 10)]


@pytest.mark.parametrize("python", LOCAL, ids=str)
def test_the_next_step_is_seen(python: farside.Python) -> None:
    subprocess.run([python.path, "-c", CASES, lookahead.__file__], check=True, timeout=60)
