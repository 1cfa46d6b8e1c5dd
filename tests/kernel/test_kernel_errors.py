"""Errors through the kernel, at every place: how they look, and that after each of them the next cell runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.jsonutil import json_default
from kernels import Kernel, Run
from places import PLACES, Site, kernel_at, ok, uncoloured


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        # As a browser does it: a lone surrogate is sent as an escape.
        site.kernel.client.session.pack = lambda message: json.dumps(message, default=json_default).encode("ascii")
        site.kernel.client.session.copy_threshold = 1 << 40  # a large message without copies begins a thread in zmq
        yield site


@pytest.fixture
def kernel(site: Site) -> Iterator[Kernel]:
    """The kernel; after the test its next cell must run, with the names of the cells before."""
    site.kernel.execute("survivor = 41")
    yield site.kernel
    assert ok(site.kernel.execute("print('still here')\nsurvivor + 1")).result == "42"


def failed(run: Run, ename: str) -> dict[str, Any]:
    """The error message of a run, which says the same as its reply."""
    assert run.reply is not None
    assert run.reply["status"] == "error", str(run)
    assert run.error is not None, str(run)
    assert run.reply["ename"] == run.error["ename"] == ename
    assert run.reply["evalue"] == run.error["evalue"]
    assert run.reply["traceback"] == run.error["traceback"]
    assert len(run.of_type("error")) == 1
    return run.error


# -- how they look ---------------------------------------------------------------------------------------------------


def test_the_traceback_shows_the_cells_own_lines(kernel: Kernel) -> None:
    ok(kernel.execute("def divide(a, b):\n    # by what?\n    return a / b\n"))
    run = kernel.execute("x = 1\nprint('before')\ndivide(x, 0)\nprint('never')")
    error = failed(run, "ZeroDivisionError")
    assert error["evalue"] == "division by zero"
    assert run.stdout == "before\n"
    assert "\x1b[" in run.traceback
    text = uncoloured(run.traceback)
    assert "ZeroDivisionError" in text.splitlines()[1]
    assert "Traceback (most recent call last)" in text
    assert "----> 3 divide(x, 0)" in text.replace("     3", " 3")
    assert "return a / b" in text
    assert "divide(a, b)" in text
    assert text.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "flame_agent" not in text
    assert "asyncio" not in text


def test_a_library_on_the_way_is_in_the_traceback(kernel: Kernel) -> None:
    run = kernel.execute("import json\njson.loads('{')")
    failed(run, "JSONDecodeError")
    text = uncoloured(run.traceback)
    assert "json.loads('{')" in text
    assert "decoder.py" in text
    assert "flame_agent" not in text


def test_chained_errors(kernel: Kernel) -> None:
    code = "try:\n    {}['key']\nexcept KeyError as e:\n    raise ValueError('second') from e"
    failed(run := kernel.execute(code), "ValueError")
    text = uncoloured(run.traceback)
    assert "The above exception was the direct cause of the following exception" in text
    assert text.index("KeyError: 'key'") < text.index("direct cause") < text.index("ValueError: second")
    assert "{}['key']" in text
    code = "try:\n    {}['key']\nexcept KeyError:\n    raise ValueError('second')"
    failed(run := kernel.execute(code), "ValueError")
    assert "During handling of the above exception, another exception occurred" in uncoloured(run.traceback)
    code = "try:\n    {}['key']\nexcept KeyError:\n    raise ValueError('second') from None"
    failed(run := kernel.execute(code), "ValueError")
    assert "KeyError: 'key'" not in uncoloured(run.traceback)


def test_a_circle_of_causes(kernel: Kernel) -> None:
    failed(
        kernel.execute("a, b = ValueError('a'), ValueError('b')\na.__cause__ = b\nb.__cause__ = a\nraise a"),
        "ValueError",
    )


def test_notes(kernel: Kernel) -> None:
    code = "e = ValueError('noted')\ne.add_note('first note')\ne.add_note('second note')\nraise e"
    failed(run := kernel.execute(code), "ValueError")
    lines = uncoloured(run.traceback).splitlines()
    at = lines.index("ValueError: noted")
    assert lines[at + 1 : at + 3] == ["first note", "second note"]


def test_exception_groups(kernel: Kernel) -> None:
    code = "def part():\n    raise KeyError('inner')\ntry:\n    part()\nexcept KeyError as e:\n    kept = e\n"
    code += "raise ExceptionGroup('several', [kept, ExceptionGroup('nested', [TypeError('deep')])])"
    run = kernel.execute(code)
    assert run.reply is not None
    assert (run.reply["status"], run.reply["ename"]) == ("error", "ExceptionGroup")
    assert run.reply["evalue"] == "several (2 sub-exceptions)"
    text = uncoloured(run.traceback or run.stderr)  # IPython prints groups, as ipykernel shows
    for part in ("several (2 sub-exceptions)", "KeyError: 'inner'", "nested (1 sub-exception)", "TypeError: deep"):
        assert part in text
    assert "flame_agent" not in text


@pytest.mark.parametrize(
    ("code", "line", "column"),
    [("x = 1\ny = = 2", "y = = 2", 4), ("print('one)", "print('one)", 6), ("for x in y\n    pass", "for x in y", 10)],
)
def test_a_syntax_error_has_a_caret(kernel: Kernel, code: str, line: str, column: int) -> None:
    failed(run := kernel.execute(code), "SyntaxError")
    lines = uncoloured(run.traceback).splitlines()
    at = next(n for n, text in enumerate(lines) if text.strip() == line)
    indent = lines[at].index(line)
    assert lines[at + 1].index("^") - indent == column
    assert lines[-1].startswith("SyntaxError: ")
    assert "flame_agent" not in run.traceback


def test_indentation_and_tabs(kernel: Kernel) -> None:
    failed(kernel.execute("if True:\nx = 1"), "IndentationError")
    failed(kernel.execute("if True:\n\tx = 1\n        y = 2"), "TabError")


def test_a_class_that_the_client_lacks(kernel: Kernel) -> None:
    code = "import sys, types\nm = types.ModuleType('only_there'); sys.modules['only_there'] = m\n"
    code += "exec('class Odd(Exception):\\n    def __reduce__(self): raise TypeError(1)', m.__dict__)\n"
    error = failed(kernel.execute(code + "raise m.Odd('of theirs')"), "Odd")
    assert error["evalue"] == "of theirs"
    failed(kernel.execute("class Own(LookupError):\n    def __init__(self, a, b): pass\nraise Own(1, 2)"), "Own")


@pytest.mark.parametrize(
    ("code", "ename"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt"),
        ("raise SystemExit", "SystemExit"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("import sys\nsys.exit('with words')", "SystemExit"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("bytearray(1 << 62)", "MemoryError"),
        ("raise MemoryError", "MemoryError"),
        ("def f():\n    f()\nf()", "RecursionError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class B(BaseException): pass\nraise B('base')", "B"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("import asyncio\nawait asyncio.sleep(0)\nraise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import asyncio\nawait asyncio.sleep(0)\nraise SystemExit(2)", "SystemExit"),
        ("import asyncio\nawait asyncio.sleep(0)\nraise asyncio.CancelledError", "CancelledError"),
        ("raise StopIteration('stop')", "StopIteration"),
        ("raise StopAsyncIteration", "StopAsyncIteration"),
        ("class E(Exception):\n    def __str__(self): raise TypeError('no text')\nraise E", "E"),
        ("class E(Exception):\n    def __str__(self): return 5\nraise E", "E"),
        ("class E(Exception):\n    def __repr__(self): raise SystemExit\nraise E", "E"),
        ("raise 5", "TypeError"),
        ("assert False, 'words'", "AssertionError"),
        ("import os\nos.stat('/no such file')", "FileNotFoundError"),
        ("import no_such_module_of_ours", "ModuleNotFoundError"),
        ("raise ValueError('x' * 2000000)", "ValueError"),
        ("raise ValueError('\\n\\x00\\x1b[31m\\ud800 é 漢')", "ValueError"),
    ],
)
def test_every_error_gives_a_reply(site: Site, kernel: Kernel, code: str, ename: str) -> None:
    run = kernel.execute(code)
    failed(run, ename)
    assert site.server.alive


@pytest.mark.parametrize("code", ["exit", "exit()", "quit()", "exit(keep_kernel=True)"])
def test_exit_asks_the_front_end(site: Site, kernel: Kernel, code: str) -> None:
    run = ok(kernel.execute(code))
    assert run.reply is not None
    (payload,) = run.reply["payload"]
    assert payload["source"] == "ask_exit"
    assert payload["keepkernel"] is ("True" in code)
    assert run.stdout.startswith("to end this session: %flame disconnect")
    assert site.server.alive


# -- values that do not want to be shown -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "ename"),
    [
        ("raise LookupError('no repr')", "LookupError"),
        ("return 5", "TypeError"),
        ("return None", "TypeError"),
        ("return repr(self)", "RecursionError"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_repr_that_fails(kernel: Kernel, body: str, ename: str) -> None:
    run = kernel.execute(f"class R:\n    def __repr__(self):\n        {body}\nvalue = R()\nvalue")
    assert run.reply is not None
    assert run.error is not None
    assert run.error["ename"] == ename
    assert run.result is None
    run = kernel.execute("display(value)\nprint('after')")
    assert ename in run.traceback
    # The object itself is there.
    assert ok(kernel.execute("type(value).__name__")).result == "'R'"


@pytest.mark.parametrize("body", ["raise SystemExit", "raise KeyboardInterrupt"])
def test_a_repr_that_leaves(kernel: Kernel, body: str) -> None:
    run = kernel.execute(f"class R:\n    def __repr__(self):\n        {body}\nR()")
    assert run.reply is not None
    assert run.reply["status"] in ("ok", "error")


def test_a_repr_that_never_ends_can_be_stopped(kernel: Kernel) -> None:
    code = "class R:\n    def __repr__(self):\n        print('asked')\n        while True:\n            pass\n"
    run = kernel.submit(code + "value = R()\nvalue")
    kernel.wait_for_output(run, "asked")
    kernel.interrupt()
    kernel.wait(run, 5)
    assert "KeyboardInterrupt" in run.traceback


# -- source that is no source ----------------------------------------------------------------------------------------

SOURCES = {
    "empty": "",
    "spaces": "   \n\t\n",
    "newlines": "\n\n\n",
    "10 MB in a string": f"len('{'x' * 10_000_000}')",
    "20000 lines": "x = 1\n" * 20_000 + "x",
    "NUL": "x = 1\x00",
    "NUL in a string": "'a\x00b'",
    "surrogate in a string": "len('\ud800')",
    "surrogate in a comment": "1 # \udfff",
    "surrogate as a name": "\ud83d = 1",
    "CRLF": "x = 1\r\nif x:\r\n    y = 2\r\nx + y",
    "CR": "x = 1\ry = 2\rx + y",
    "BOM": "\ufeffx = 1\nx",
    "tabs": "if 1:\n\tx = 3\nx",
    "tabs and spaces": "if 1:\n\tx = 1\n        y = 2",
    "indented": "    x = 1\n    x",
    "prompts": ">>> x = 1\n>>> if x:\n...     y = 2",
    "IPython's prompts": "In [1]: x = 1\n   ...: y = 2\n",
    "form feed": "x = 1\n\x0cx",
    "escape": "\x1b[31m",
    "10000 brackets": "(" * 10_000 + ")" * 10_000,
    "90 brackets": "(" * 90 + "1" + ")" * 90,
    "100000 terms": "+".join(["1"] * 100_000),
    "100000 minuses": "-" * 100_000 + "1",
    "100000 attributes": "x = 1\nx" + ".real" * 100_000,
    "deep blocks": "".join("    " * n + "if 1:\n" for n in range(150)) + "    " * 150 + "x = 1",
    "coding": "# -*- coding: utf-7 -*-\nx = '+AOk-'\nx",
    "bad coding": "# -*- coding: no-such -*-\n1",
    "bad name": "'\\N{no such name}'",
    "open string": "'abc",
    "open bracket": "f(1,",
    "return": "return 3",
    "yield": "yield 3",
    "break": "break",
    "two values": "a b",
    "unicode name": "é漢 = 5\né漢",
    "odd digits": "１２ + 1",
    "no-break space": "x\u00a0= 1",
    "long name": "n" * 100_000 + " = 1",
    "huge number": "9" * 5_000,
    "starred": "*a, *b = 1",
}

# Runs where IPython is: what each source on stdin comes to.
LOCAL = """
import json, sys, io, contextlib
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
found = {}
for name, code in json.load(sys.stdin).items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            result = shell.run_cell(code)
            error = result.error_before_exec or result.error_in_exec
        except Exception as e:
            error = e
    found[name] = None if error is None else type(error).__name__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def local_ipython() -> dict[str, str | None]:
    """The class of error that each of SOURCES is to an IPython of this machine; None for none."""
    done = subprocess.run(
        [sys.executable, "-c", LOCAL], input=json.dumps(SOURCES), capture_output=True, text=True, check=True, timeout=60
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("site", ["process", "process-bare"], indirect=True)  # where a crash would be the app's
@pytest.mark.parametrize("name", SOURCES)
def test_bad_source_is_what_it_is_to_ipython(kernel: Kernel, name: str, local_ipython: dict[str, str | None]) -> None:
    run = kernel.execute(SOURCES[name], timeout=50)
    assert run.reply is not None
    assert (run.reply["status"], run.reply.get("ename")) == (
        "error" if local_ipython[name] else "ok",
        local_ipython[name],
    ), str(run)[:2000]
