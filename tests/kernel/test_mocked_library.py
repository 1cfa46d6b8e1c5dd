"""Cells that replace, break or use up what the agent stands on: the session lives, and what is put back works."""

from __future__ import annotations

import pytest
from kernels import Kernel
from places import Site, ok

REPLACE = """
import {module}
kept = {name}
def no(*args, **kwargs): raise RuntimeError('replaced')
{name} = no
"""

# Each was a way to end or to silence a session.
NAMES = """
json.dumps json.loads socket.socket os.getpid os.write os.read time.time time.monotonic select.select os.path.exists
threading.Thread threading.Event subprocess.Popen hashlib.blake2b struct.unpack base64.b64encode signal.signal os.stat
json.JSONEncoder.iterencode json.JSONDecoder.decode
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_a_function_of_the_library_is_replaced(kernel: Kernel, site: Site, name: str) -> None:
    if name in ("threading.Event", "struct.unpack", "os.read", "os.write", "socket.socket") and not site.in_child:
        pytest.skip("the server itself needs it")
    ok(kernel.execute(REPLACE.format(module=name.partition(".")[0], name=name)))
    try:
        run = ok(kernel.execute("print('line')\n40 + 2"))
        assert run.stdout == "line\n"
        assert run.result == "42"
        run = kernel.execute("1 / 0")
        assert run.reply is not None
        assert run.reply["ename"] == "ZeroDivisionError"
        assert "1 / 0" in run.traceback or "division by zero" in run.traceback
        assert ok(kernel.execute("input('?')", answers=("yes",))).result == "'yes'"
    finally:
        ok(kernel.execute(f"{name} = kept"))
    assert ok(kernel.execute("40 + 2")).result == "42"


@pytest.mark.parametrize("name", ["print", "open", "repr", "sorted", "__build_class__", "input", "id"])
def test_a_builtin_is_replaced_for_all(kernel: Kernel, site: Site, name: str) -> None:
    """IPython itself, or the server, may not work meanwhile; the cell ends and the session is there afterwards."""
    if not site.in_child:
        pytest.skip("the server itself needs them")
    run = kernel.execute(
        f"import builtins\nkept = builtins.{name}\ndef no(*args): raise RuntimeError('replaced')\n"
        f"try:\n    builtins.{name} = no\n    print_ = 1\nfinally:\n    pass"
    )
    assert run.reply is not None
    kernel.execute("1 + 1")
    kernel.execute("1 / 0")
    kernel.execute(f"builtins.{name} = kept")
    assert ok(kernel.execute("40 + 2")).result == "42"


SHADOWED = "print open len list type sys input display Exception str dict isinstance getattr id range os time json"


def test_names_of_builtins_are_taken_by_cells(kernel: Kernel, site: Site) -> None:
    names = SHADOWED.split()
    ok(kernel.execute("; ".join(f"{name} = None" for name in names)))
    run = kernel.execute("1 / 0")
    assert run.error is not None
    assert run.error["ename"] == "ZeroDivisionError"
    if site.has_ipython:
        assert "shell" in kernel.execute("!echo shell").stdout
        ok(kernel.execute("%pwd"))
    ok(kernel.execute("; ".join(f"del {name}" for name in names)))
    assert ok(kernel.execute("print(len([1, 2]))")).stdout == "2\n"


def test_a_frozen_clock(kernel: Kernel) -> None:
    code = """
import time
kept = time.time, time.monotonic, time.sleep, time.perf_counter
time.time = time.monotonic = time.perf_counter = lambda: 0.0
time.sleep = lambda seconds: None
"""
    ok(kernel.execute(code))
    try:
        assert ok(kernel.execute("for i in range(5): print(i)")).stdout == "0\n1\n2\n3\n4\n"
        assert ok(kernel.execute("import asyncio\nawait asyncio.sleep(0.05)\n'slept'")).result == "'slept'"
        assert "time" in kernel.complete("tim")["matches"]
    finally:
        ok(kernel.execute("time.time, time.monotonic, time.sleep, time.perf_counter = kept"))


def test_all_descriptors_are_used_up(site: Site, kernel: Kernel) -> None:
    if not site.in_child:
        pytest.skip("the server itself needs descriptors")
    ok(kernel.execute("import resource\nlimit = resource.getrlimit(resource.RLIMIT_NOFILE)"))
    ok(kernel.execute("resource.setrlimit(resource.RLIMIT_NOFILE, (128, limit[1]))"))
    run = kernel.execute("files = []\nwhile True: files.append(open('/dev/null'))")
    assert run.reply is not None
    assert run.reply["ename"] == "OSError"
    for code in ("import json, decimal; 1 / 0", "print('x')", "open('/dev/null')"):
        assert kernel.execute(code).reply is not None
    ok(kernel.execute("for f in files: f.close()\nresource.setrlimit(resource.RLIMIT_NOFILE, limit)"))
    assert ok(kernel.execute("40 + 2")).result == "42"


NEEDED = "len isinstance getattr type range str dict __import__ super"


@pytest.mark.parametrize("name", [*(f"builtins.{name}" for name in NEEDED.split()), "contextvars.copy_context"])
def test_what_nothing_works_without_is_put_back(kernel: Kernel, site: Site, name: str) -> None:
    if not site.in_child:
        pytest.skip("the server itself needs them")
    module, _, short = name.partition(".")
    code = f"import {module}\ndef no(*args, **kwargs): raise RuntimeError('replaced')\n{module}.{short} = no"
    run = kernel.execute(code)
    assert run.reply is not None
    assert f"a cell replaced {name} by something that does not work" in run.stderr
    run = ok(kernel.execute("print('line')\n40 + 2"))
    assert (run.stdout, run.result) == ("line\n", "42")


def test_what_works_stays_as_a_cell_has_replaced_it(kernel: Kernel) -> None:
    code = "import builtins\ncalls = []\nfound = builtins.open\n"
    code += "builtins.open = lambda *a, **k: calls.append(a) or found(*a, **k)"
    assert ok(kernel.execute(code)).stderr == ""
    ok(kernel.execute("builtins.open('/dev/null').close()"))  # IPython gives cells an open of its own
    assert ok(kernel.execute("builtins.open = found\nlen(calls) > 0")).result == "True"
