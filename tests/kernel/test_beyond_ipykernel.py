"""Where ipykernel shows nothing, or not enough: the source of classes, ``%%time`` with await, errors that resist."""

from __future__ import annotations

import pytest
from kernels import Kernel
from places import Site, ok, uncoloured

CLASSES = """
import dataclasses, enum, inspect
class Methods:
    def m(self): return 2
class Bare:
    a = 1
@dataclasses.dataclass
class Data:
    v: int = 0
class Colour(enum.Enum):
    RED = 1
class Outer:
    class Inner: inner = True
"""
SOURCES = {
    "Methods": "class Methods:\n    def m(self): return 2\n",
    "Bare": "class Bare:\n    a = 1\n",
    "Data": "@dataclasses.dataclass\nclass Data:\n    v: int = 0\n",
    "Colour": "class Colour(enum.Enum):\n    RED = 1\n",
    "Outer.Inner": "    class Inner: inner = True\n",
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_of_a_class(kernel: Kernel, name: str) -> None:
    ok(kernel.execute(CLASSES))
    ok(kernel.execute("class Another: pass"))
    assert ok(kernel.execute(f"print(inspect.getsource({name}), end='')")).stdout == SOURCES[name]


def test_a_class_that_has_no_source(kernel: Kernel) -> None:
    run = kernel.execute("import inspect\ninspect.getsource(type('Made', (), {}))")
    assert run.error is not None
    assert run.error["ename"] in ("OSError", "TypeError")
    assert "flame_agent" not in run.traceback


TIMED = {
    "%%time\nimport asyncio\nawait asyncio.sleep(0)\n5": "5",
    "%time await asyncio.sleep(0, 6)": "6",
    "\n\n%%time\nasync def f(): return 7\nawait f()": "7",
    "%time 4 + 4": "8",
}


@pytest.mark.parametrize("code", TIMED)
def test_time_of_what_awaits(kernel: Kernel, site: Site, code: str) -> None:
    if not site.has_ipython:
        pytest.skip("the mini shell's magics do not await")
    ok(kernel.execute("import asyncio"))
    run = ok(kernel.execute(code))
    assert run.result == TIMED[code]
    assert "Wall time:" in run.stdout
    assert ok(kernel.execute("get_ipython().history_manager.input_hist_raw[-2]")).result == repr(code)


def test_time_of_what_fails_when_it_awaits(kernel: Kernel, site: Site) -> None:
    if not site.has_ipython:
        pytest.skip("the mini shell's magics do not await")
    run = kernel.execute("%%time\nimport asyncio\nawait asyncio.sleep(0)\n1 / 0")
    assert "line 4" in uncoloured(run.traceback)
    assert "Wall time:" in run.stdout


def test_reset_out_frees_values(kernel: Kernel, site: Site) -> None:
    if not site.has_ipython:
        pytest.skip("%reset is IPython's")
    ok(kernel.execute("import gc, weakref\nclass B: pass\nb = B(); w = weakref.ref(b)"))
    for code in ("b", "%reset -f out", "0", "1", "2"):
        ok(kernel.execute(code))
    assert ok(kernel.execute("del b\n_ = gc.collect(); w() is None")).result == "True"


RESIST = """
class S(Exception):
    def __str__(self): raise RuntimeError('in str')
class RT(Exception):
    def _render_traceback_(self): raise RuntimeError('in render')
class Odd(Exception):
    def _render_traceback_(self): return 5
class False_(Exception):
    def __bool__(self): raise RuntimeError('in bool')
class Cause(Exception):
    @property
    def __cause__(self): raise RuntimeError('in cause')
def cycle():
    a, b = ValueError('a'), ValueError('b')
    a.__cause__, b.__cause__ = b, a
    raise a
"""
ERRORS = {
    "raise S": "S",
    "raise RT('shown')": "RT",
    "raise Odd('shown')": "Odd",
    "raise False_('shown')": "False_",
    "raise Cause('shown')": "Cause",
    "cycle()": "ValueError",
    "raise RuntimeError('x' * 5_000_000)": "RuntimeError",
}


@pytest.mark.parametrize("code", ERRORS)
def test_errors_that_resist(kernel: Kernel, code: str) -> None:
    ok(kernel.execute(RESIST))
    run = kernel.execute(code)
    assert len(run.of_type("error")) == 1
    assert run.error is not None
    assert run.error["ename"] == ERRORS[code]
    assert ERRORS[code] in run.traceback
    assert "shown" in run.traceback or "shown" not in code
    assert "flame_agent" not in run.traceback
    assert ok(kernel.execute("6 * 7")).result == "42"


def test_members_of_a_group(kernel: Kernel) -> None:
    if kernel.execute("ExceptionGroup").error is not None:
        return  # before Python 3.11
    code = "import asyncio\nasync def bad(n): raise ValueError(f'member {n}')\n"
    code += "async with asyncio.TaskGroup() as g: g.create_task(bad(1)); g.create_task(bad(2))"
    run = kernel.execute(code)
    assert run.error is not None
    assert run.error["ename"] == "ExceptionGroup"
    assert "member 1" in run.traceback
    assert "member 2" in run.traceback
    assert run.stderr == ""


def test_functions_and_classes_of_cells_go_to_worker_processes(kernel: Kernel, site: Site) -> None:
    if not site.has_ipython:
        pytest.skip("no cloudpickle there")
    code = """
import cloudpickle, subprocess, sys
def square(x): return x * x
class Mine:
    def __init__(self, value): self.value = square(value)
work = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(3).value)"
subprocess.run([sys.executable, "-c", work], input=cloudpickle.dumps(Mine), stdout=subprocess.PIPE).stdout
"""
    assert ok(kernel.execute(code)).result == r"b'9\n'"


@pytest.mark.parametrize("test", ['__name__ == "__main__"', "'__main__' == __name__", 'not __name__ != "__main__"'])
def test_cells_are_main(kernel: Kernel, test: str) -> None:
    assert ok(kernel.execute(f"if {test}: print('runs')\ndef f(): return {test}\nf()")).stdout == "runs\n"
    assert ok(kernel.execute("f(), '__main__' == 'x', __name__ == 'y'")).result == "(True, False, False)"


def test_cells_are_what_main_tests(kernel: Kernel) -> None:
    code = """
import doctest, unittest
class Case(unittest.TestCase):
    def test(self): self.assertEqual(twice(2), 5)
def twice(x):
    '''
    >>> twice(2)
    5
    '''
    return 2 * x
unittest.main(argv=["x"], exit=False).result, doctest.testmod(verbose=False).failed
"""
    assert ok(kernel.execute(code)).result == "(<unittest.runner.TextTestResult run=1 errors=0 failures=1>, 1)"
    assert (
        ok(kernel.execute("unittest.main('unittest.async_case', argv=['x'], exit=False).result.testsRun")).result == "0"
    )
    ok(kernel.execute("del Case, twice"))
