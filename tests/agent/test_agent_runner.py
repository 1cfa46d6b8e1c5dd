"""The mini shell: what a cell, its values and its errors look like where the server has no IPython.

The same assertions on every Python of this machine; and a comparison with ipykernel, source by source.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from farside import Python
from kernels import remote_flame
from mini import Answer, ask, cell

ASK_EXIT = {"source": "ask_exit", "keepkernel": False}


def test_there_are_old_pythons(pythons: tuple[Python, ...]) -> None:
    assert pythons  # the fixture fails in CI where two old ones are not there


def test_values(each_python: Python) -> None:
    nothing, one, out, named, quiet, quiet2, semicolon, none, both, doc, silent, after = ask(
        each_python, "", "40 + 2", "_, Out, In", "x = 7", "x;", "x; # done", "'a;'", "None", "x\nx + 1",
        "'''\n;'''", cell("print(1); x", silent=True),
        "import os\nlen(In), sorted(Out), _i, _ii, _oh is Out, _dh == [os.getcwd()]",
    )  # fmt: skip
    assert (nothing.status, nothing.value["execution_count"]) == ("ok", 0)
    assert (one.result, one.value["execution_count"]) == ("42", 1)
    assert out.result == "(42, {1: 42}, ['', '40 + 2', '_, Out, In'])"
    assert [named.result, quiet.result, quiet2.result, none.result] == [None] * 4
    assert semicolon.result == "'a;'"
    assert both.result == "8"
    assert doc.result == r"'\n;'"
    assert (silent.result, silent.stdout, silent.value["execution_count"]) == (None, "1\n", 9)
    assert after.result is not None
    assert after.result.replace("\n", "") == (
        "(11, [1, 2, 6, 8, 9], \"'''\\\\n;'''\", 'x\\\\nx + 1', True, True)".replace("\\\\n", "\\n")
    )


def test_underscores_belong_to_whoever_assigns_them(each_python: Python) -> None:
    answers = ask(each_python, "1", "2", "3", "_, __, ___", "_ = 'mine'", "4", "_", "del _", "5", "_, _6")
    assert [a.result for a in answers] == ["1", "2", "3", "(3, 2, 1)", None, "4", "'mine'", None, "5", "(5, 4)"]


def test_counts_with_and_without_history(each_python: Python) -> None:
    first, unstored, failed, quiet, second = ask(
        each_python,
        "1",
        cell("2", store_history=False),
        cell("1/0", store_history=False),
        cell("1/0", silent=True),
        "_, In[-1]",
    )
    assert [a.value["execution_count"] for a in (first, unstored, failed, quiet, second)] == [1, 1, 1, 1, 2]
    assert unstored.result == "2"
    assert [kind for kind, _ in failed.events] == ["error"]
    assert quiet.status == "error"
    assert quiet.events == []
    assert second.result == "(2, '_, In[-1]')"


def test_the_traceback(each_python: Python) -> None:
    code = 'def f(a, *rest, key=None, **more):\n    b = 0\n    return a / b\n\n\nx = "é😀"\nf(1)'
    done, library, chained, context, cycle, none = ask(
        each_python,
        code,
        "import json\njson.loads('{')",
        "try:\n    {}['é']\nexcept KeyError as e:\n    raise ValueError('second') from e",
        "try:\n    {}['k']\nexcept KeyError:\n    1/0",
        "a, b = ValueError('a'), ValueError('b')\na.__cause__ = b; b.__cause__ = a\nraise a",
        "try:\n    {}['k']\nexcept KeyError:\n    raise ValueError('alone') from None",
    )
    assert done.error == ("ZeroDivisionError", "division by zero")
    assert done.traceback.split("\n") == [
        "-" * 75,
        "ZeroDivisionError                         Traceback (most recent call last)",
        "Cell In[1], line 7",
        "      3     return a / b",
        "      4 ",
        "      5 ",
        '      6 x = "é😀"',
        "----> 7 f(1)",
        "",
        "Cell In[1], line 3, in f(a, *rest, key, **more)",
        "      1 def f(a, *rest, key=None, **more):",
        "      2     b = 0",
        "----> 3     return a / b",
        "      4 ",
        "      5 ",
        "",
        "ZeroDivisionError: division by zero",
    ]
    (content,) = [content for _, content in done.events]
    assert content["traceback"] == done.value["traceback"]
    assert content["traceback"][1].startswith("\x1b[31mZeroDivisionError\x1b[39m   ")
    assert "File " in library.traceback
    assert "json/decoder.py:" in library.traceback
    assert "runner" not in library.traceback
    assert "direct cause of the following exception" in chained.traceback
    assert chained.traceback.index("KeyError: 'é'") < chained.traceback.index("ValueError: second")
    assert "During handling of the above exception" in context.traceback
    assert cycle.traceback.count("direct cause") == 1
    assert "KeyError: " not in none.traceback


def test_errors_that_resist(each_python: Python) -> None:
    bad_str = "class E(Exception):\n    def __str__(self): raise ValueError('no')\nraise E()"
    group = (
        "class BaseExceptionGroup(Exception):\n"  # by name, as the backport: 3.11 has its own
        "    def __init__(self, text, exceptions):\n"
        "        super().__init__(text)\n        self.exceptions = exceptions\n"
        "raise BaseExceptionGroup('several', (ValueError('one'), BaseExceptionGroup('more', (KeyError('two'),))))"
    )
    answers = ask(
        each_python,
        bad_str,
        "def rec(n): return rec(n + 1)\nrec(0)",
        "def a(n): return b(n)\ndef b(n): return a(n)\na(0)",
        "raise SystemExit(3)",
        "import sys; sys.exit()",
        "raise KeyboardInterrupt",
        "raise MemoryError()",
        "raise BaseException('base')",
        group,
        "e = ValueError('n'); e.__notes__ = ['note one', 'note two']; raise e",
        "raise ValueError('\\ud800')",
        "raise ValueError('x' * 10**6)",
        "raise SyntaxError('of my own')",
        "exec('1 +')",
        "def d(n):\n    raise (ValueError if n == 0 else KeyError)(n) from (d2(n) if n else None)\n"
        "def d2(n):\n    try:\n        d(n - 1)\n    except Exception as e:\n        return e\nd(60)",
        "raise type('Metaclass', (type,), {'__str__': None})('Odd', (Exception,), {})('x')",
        "'usable'",
    )
    errors = [a.error for a in answers[:-1]]
    assert errors[0] == ("E", "<exception str() failed>")
    for a in answers[1:3]:
        assert a.error is not None
        assert a.error[0] == "RecursionError"
        assert "[... skipping similar frames: " in a.traceback
        assert len(a.traceback) < 5000
    assert errors[3:8] == [
        ("SystemExit", "3"),
        ("SystemExit", ""),
        ("KeyboardInterrupt", ""),
        ("MemoryError", ""),
        ("BaseException", "base"),
    ]
    assert answers[3].traceback.startswith("An exception has occurred, use %tb")
    assert answers[3].value["payload"] == []
    assert "2 ----" in answers[8].traceback
    assert "  |   | KeyError: 'two'" in answers[8].traceback
    assert answers[9].traceback.endswith("ValueError: n\nnote one\nnote two")
    assert errors[10] == ("ValueError", "\ud800")
    assert errors[11] is not None
    assert 90_000 < len(errors[11][1]) < 110_000
    assert "characters left out" in errors[11][1]
    assert errors[12] == ("SyntaxError", "of my own")
    assert "In[14]" in answers[13].traceback
    assert "<string>:1" in answers[13].traceback
    assert "earlier exceptions left out" in answers[14].traceback
    assert errors[15] == ("Odd", "x")
    assert answers[-1].result == "'usable'"


def test_values_that_resist(each_python: Python) -> None:
    shown, bad, not_text, exits, interrupts, everything = ask(
        each_python,
        "class C:\n    def __init__(self, f): self.f = f\n    def __repr__(self): return self.f()\nC(lambda: 'fine')",
        "C(lambda: 1/0)",
        "C(lambda: 5)",
        "C(exit)",
        "def f(): raise KeyboardInterrupt\nC(f)",
        "class Any:\n    def __getattr__(self, name): return lambda *a, **k: None\n"
        "    def __repr__(self): return 'any'\nAny()",
    )
    assert shown.result == "fine"
    assert (bad.error, bad.result) == (("ZeroDivisionError", "division by zero"), None)
    assert bad.traceback.endswith("ZeroDivisionError: division by zero")
    assert "Cell In[2], line 1" in bad.traceback
    assert not_text.error is not None  # 3.15 says it in other words
    assert not_text.error[0] == "TypeError"
    assert re.search(r"__repr__.*(non-string|a str, not)", not_text.error[1])
    assert exits.value["payload"] == [ASK_EXIT]
    assert interrupts.error == ("KeyboardInterrupt", "")
    assert everything.result == "any"


NO_SOURCE = [
    ("a=1\x00", ("ValueError", "SyntaxError")),
    ("a='\ud800'", ("UnicodeEncodeError",)),
    ("\ufeffa=1", ("SyntaxError",)),
    ("if 1:\n\tx=1\n        y=2", ("TabError",)),
    ("if 1:\n  a\n b", ("IndentationError",)),
    ("(" * 10**4 + ")" * 10**4, ("SyntaxError", "MemoryError")),
    ("-" * 10**5 + "1", ("MemoryError", "RecursionError")),
    ("x = 1" + "+1" * 10**5, ("RecursionError",)),
    ("(" + "a\n+" * 10**5 + "a)", ("RecursionError",)),
    ("f" + "(1)" * 10**5, ("RecursionError",)),
    ("'\\N{no such name}'", ("SyntaxError",)),
    ("'abc", ("SyntaxError",)),
    ("return 3", ("SyntaxError",)),
    ("yield 3", ("SyntaxError",)),
    ("from __future__ import nope", ("SyntaxError",)),
    ("\x1b[31m", ("SyntaxError",)),
    ("x = " + "1, " * 10**6 + "(", ("SyntaxError",)),
]


def test_source_that_is_none(each_python: Python) -> None:
    """Python before 3.9 would end with its process at some of these: the server's."""
    answers = ask(each_python, *[code for code, _ in NO_SOURCE], "'usable'")
    for n, ((code, names), bad) in enumerate(zip(NO_SOURCE, answers[:-1], strict=True), 1):
        assert bad.error is not None, code[:20]
        assert bad.error[0] in names, code[:20]
        assert len(bad.traceback) < 3000
        if bad.error[0] in ("SyntaxError", "TabError") and "\x00" not in code:
            assert f"Cell In[{n}], line " in bad.traceback
    assert answers[-1].result == "'usable'"


def test_source_that_is_odd(each_python: Python) -> None:
    crlf, tabs, cookie, null, lines, big, feed = ask(
        each_python,
        "def f():\r\n\tx = 1\r\n\treturn x + len('''a\r\nb''')\r\nf()",
        "if 1:\n\tx = 2\nx",
        "# -*- coding: utf-7 -*-\n'é'",
        "'\\N{NULL}'",
        "x = 1\n" * 10**5 + "x",
        "x = '" + "a" * 10**7 + "'\nlen(x)",
        "1\n\x0c\n2",
    )
    assert [a.result for a in (crlf, tabs, cookie, null, lines, big, feed)] == [
        "4", "2", "'é'", r"'\x00'", "1", "10000000", "2",
    ]  # fmt: skip


def test_await(each_python: Python) -> None:
    setup = (
        "import asyncio\n"
        "async def later(x):\n    await asyncio.sleep(0)\n    return x\n"
        "async def many():\n    for n in range(3):\n        yield n\n"
        "class A:\n    async def __aenter__(self): return 'in'\n    async def __aexit__(self, *a): pass"
    )
    text = 'text = """one\n  two\n\tthree"""\nif text:\n\tvalue = (await later(\n  5))\nvalue, text'
    ok = ask(
        each_python, setup, "await later(3)", "x = await later(4); y = x\nx + y", text,
        "async for n in many(): pass\nn",
        "[n async for n in many()]", "async with A() as a:\n    b = a\nb", "await later(6);",
        "import os\ndef g(): return x\nz: int = await later(7)\nglobal q\nq = [i for i in range(3)]\nz, g(), q",
        "task = asyncio.ensure_future(later(8))", "await task, task.done()",
        "try:\n    await later(1/0)\nexcept ZeroDivisionError as e:\n    r = repr(e)[:17]\nr",
    )  # fmt: skip
    assert [a.status for a in ok] == ["ok"] * len(ok), [a.value for a in ok]
    assert [a.result for a in ok] == [
        None, "3", "8", "(5, 'one\\n  two\\n\\tthree')", "2", "[0, 1, 2]", "'in'", None, "(7, 4, [0, 1, 2])",
        None, "(8, True)", "'ZeroDivisionError'",
    ]  # fmt: skip
    failed = ask(
        each_python,
        "async def f():\n    1/0\n",
        "x = 1\nawait f()",
        "await 3",
        "await 3\nreturn 4",
        "await (",
        "'await'",
    )
    assert [a.error[0] if a.error else None for a in failed] == [
        None, "ZeroDivisionError", "TypeError", "SyntaxError", "SyntaxError", None,
    ]  # fmt: skip
    assert "Cell In[2], line 2\n      1 x = 1\n----> 2 await f()" in failed[1].traceback
    assert "Cell In[1], line 2, in f()" in failed[1].traceback


def test_futures_and_source_are_remembered(each_python: Python) -> None:
    answers = ask(
        each_python,
        "from __future__ import barry_as_FLUFL",
        "1 <> 2",
        "def f():\n    '''Doc.'''\n    return 1\nclass C:\n    def m(self):\n        pass",
        "import inspect, linecache\nlinecache.checkcache()\ninspect.getsource(f)",
        "linecache.clearcache(); f.__code__.co_filename.endswith('.py')",
        "f(1)",
        "for n in range(3000):\n    get_ipython()._shell._compiler.remember('x = %d' % n, n)\n"
        "here = get_ipython()._shell._compiler\nlen(here._cells), sum(1 for n in linecache.cache if 'flame_ab12' in n)",
        "import warnings; warnings.warn('look')",
        ("eval", "[shell.close(), sum(1 for n in sys.modules['linecache'].cache if 'flame_ab12' in n)][1]"),
    )
    assert answers[1].result == "True"
    assert answers[3].result == repr("def f():\n    '''Doc.'''\n    return 1\n")
    assert answers[4].result == "True"
    assert "----> 1 f(1)" in answers[5].traceback
    assert answers[6].result == "(1000, 1000)"
    assert "UserWarning: look\n" in answers[7].stderr
    if each_python.version >= (3, 8):  # before, warnings speak of the module only
        assert "  import warnings; warnings.warn('look')\n" in answers[7].stderr
    assert answers[8].value == 0


def test_expressions(each_python: Python) -> None:
    _, found = ask(each_python, "x = 'é'", ("expressions", {"a": "x", "b": "1/0", "c": "(", "d": "exit"}))
    assert found.value["a"] == {"status": "ok", "data": {"text/plain": "'é'"}, "metadata": {}}
    assert (found.value["b"]["status"], found.value["b"]["ename"]) == ("error", "ZeroDivisionError")
    assert found.value["c"]["ename"] == "SyntaxError"
    assert found.value["d"]["status"] == "ok"


def test_exit(each_python: Python) -> None:
    answers = ask(each_python, "exit()\nx = 1", "exit", "quit(keep_kernel=True)", "x")
    assert [a.value["payload"] for a in answers] == [[ASK_EXIT], [ASK_EXIT], [{**ASK_EXIT, "keepkernel": True}], []]
    assert answers[3].result == "1"


def line(name: str, text: str) -> str:
    return f"get_ipython().run_line_magic({name!r}, {text!r})"


def body(name: str, text: str, cell: str) -> str:
    return f"get_ipython().run_cell_magic({name!r}, {text!r}, {cell!r})"


def test_commands(each_python: Python) -> None:
    out, code, lines, status, expanded, inside, kept = ask(
        each_python,
        "get_ipython().system('echo é; echo two >&2; exit 3')",
        "_exit_code",
        "z = get_ipython().getoutput('echo one; echo two; echo /')\nz, z.n, z.s, [str(p) for p in z.p]",
        body("bash", "", "echo out; echo err >&2; exit 4"),
        "x = 'X'\nget_ipython().system('echo {x.lower()} $x $$HOME')",
        "def f(local):\n    get_ipython().system('echo $local')\nf('L')",
        "get_ipython().system('echo {nothing} $x')",
    )
    assert sorted(out.stdout.splitlines()) == ["two", "é"]
    assert code.result == "3"
    assert lines.result == r"(['one', 'two', '/'], 'one\ntwo\n/', 'one two /', ['/'])"
    assert (status.stdout, status.stderr) == ("out\n", "err\n")
    assert status.error is not None
    assert status.error[0] == "CalledProcessError"
    assert "commands.py" not in status.traceback
    assert expanded.stdout.split()[:2] == ["x", "X"]
    assert inside.stdout == "L\n"
    assert kept.stdout == "{nothing}\n"


def test_an_interrupt_stops_a_command_and_a_loop(each_python: Python) -> None:
    _, command, _, loop, after = ask(
        each_python,
        ("interrupt", "begun"),
        "get_ipython().system('echo begun; sleep 60; echo no')\nprint('no')",
        ("interrupt", "begun"),
        "print('begun')\nn = 0\nwhile True:\n    n += 1",
        "n > 0",
    )
    assert command.error == ("KeyboardInterrupt", "")
    assert command.stdout == "begun\n"
    assert loop.error == ("KeyboardInterrupt", "")
    assert after.result == "True"


def test_magics(each_python: Python, tmp_path: Path) -> None:
    name = str(tmp_path / "a file.py")
    a = ask(
        each_python,
        line("time", "x = 3"),
        body("time", "", "y = x + 1\ny"),
        line("timeit", "-n 5 -r 2 x + 1"),
        body("timeit", "-n1 -r1 z = 2", "z + 1"),
        f"r = {line('timeit', '-q -o -n2 -r2 1')}\nr.loops, len(r.all_runs)",
        body("writefile", f"'{name}'", "import sys\nmade = sys.argv[1:]\nif __name__ == '__main__': ran = 1\n"),
        line("run", f"'{name}' one two") + "\nmade, ran",
        body("capture", "kept", "print('caught')\n5"),
        "kept.stdout",
        line("cd", str(tmp_path)),
        line("pwd", ""),
        line("env", "FLAME_TEST_VARIABLE=5"),
        line("env", "FLAME_TEST_VARIABLE"),
        line("who_ls", ""),
        line("who", "int"),
        line("whos", "int"),
        "def f(a, b=2):\n    '''What f does.'''",
        line("pinfo", "f"),
        line("pinfo2", "f"),
        line("pinfo", "nothing.there"),
        line("matplotlib", "qt"),
        line("prun", "x"),
        body("cython", "", "x"),
        line("pip", "--version"),
        body("html", "", "<b>bold</b>"),
        line("time", "1/0"),
        line("tb", ""),
        line("cd", "/no/such"),
        line("timeit", "-n x 1"),
        line("debug", ""),
    )
    times = [a[n].stdout.split(":")[0] for n in (0, 1)]
    assert times == ["CPU times", "CPU times"]
    assert a[1].result == "4"
    assert "(mean ± std. dev. of 2 runs, 5 loops each)" in a[2].stdout
    assert "of 1 run, 1 loop each" in a[3].stdout
    assert a[4].result == "(2, 2)"
    assert a[5].stdout == f"Writing {name}\n"
    assert a[6].result == "(['one', 'two'], 1)"
    assert (a[7].stdout, a[7].result, a[8].result) == ("", None, r"'caught\n'")
    assert a[9].stdout == f"{tmp_path}\n"
    assert a[10].result == repr(str(tmp_path))
    assert (a[11].stdout, a[12].result) == ("env: FLAME_TEST_VARIABLE=5\n", "'5'")
    assert a[13].result is not None
    assert "'x'" in a[13].result
    assert "'In'" not in a[13].result
    assert a[14].stdout.split() == ["ran", "x", "y"]
    assert "Variable   Type   Data/Info" in a[15].stdout
    (page,) = a[17].value["payload"]
    assert (page["source"], page["start"]) == ("page", 0)
    assert "What f does." in page["data"]["text/plain"]
    assert "def" in a[18].value["payload"][0]["data"]["text/plain"]
    assert a[19].stdout == "Object `nothing.there` not found.\n"
    version = ".".join(map(str, each_python.version))
    for n, what in ((21, "%prun"), (22, "%%cython")):
        assert a[n].error is not None
        assert a[n].error[0] == "UsageError"
        assert a[n].stderr.startswith(f"UsageError: {what} needs IPython, which is not installed on ")
        advice = ": %flame pip install ipython, then a new session" if each_python.version >= (3, 7) else ""
        assert a[n].stderr.endswith(f"(Python {version}){advice}\n")
        assert a[n].events == []
    assert a[23].stdout.startswith("pip ") or "No module named pip" in a[23].stdout  # Debian's has none of its own
    assert a[24].events[0][1]["data"] == {"text/html": "<b>bold</b>"}
    assert a[25].error == ("ZeroDivisionError", "division by zero")
    assert "magics.py" not in a[25].traceback
    assert "ZeroDivisionError" in a[26].stdout
    assert "/no/such" in a[27].stdout
    assert a[28].stderr.startswith("UsageError: %timeit: -n wants a number")
    assert a[29].stdout.endswith("\n")


def test_pdb_asks_the_session(each_python: Python) -> None:
    ask_for = (
        "import builtins\nanswers = iter(['p secret', 'up', 'q'])\n"
        "builtins.input = lambda prompt='': (print(prompt, end=''), next(answers))[1]"
    )
    answers = ask(each_python, "def f():\n    secret = 'found it'\n    1/0\nf()", ask_for, line("debug", ""))
    assert answers[2].status == "ok", answers[2].value
    assert "'found it'" in answers[2].stdout
    assert "(pdb) " in answers[2].stdout


SAME = [
    "1 + 1", "x = 3", "x;", "x", "_", "Out", "print('é😀')", "", "  ", "# comment", "1/0", "undefined",
    "import nomodule", "[].x", "{}['k']", "int('x')", "raise ValueError('é')", "raise ValueError", "raise 5",
    "assert False, 'm'",
    "raise SystemExit(3)", "import sys; sys.exit()", "raise KeyboardInterrupt", "raise BaseException('b')",
    "raise MemoryError()", "def f(): return f()\nf()", "a=1\r\na\r\n", "if 1:\r\n\tx=1\r\n\tx",
    "if 1:\n\tx=1\n        y=2", "# -*- coding: latin-1 -*-\n'é'", "# -*- coding: nonsense -*-\n'é'",
    "(" * 10**4 + ")" * 10**4, "-" * 20000 + "1", "x=1\n" * 10**4, "x='" + "a" * 50000 + "'", "'\\N{NULL}'",
    "'\\N{nope}'", "\ufeffa=1", "x=1\x0cy", "\x1b[31m", "'abc", "foo = 1 +* 2", "return 3", "yield 3",
    "from __future__ import nope", "from __future__ import annotations", "def g(x: nope): pass\ng.__annotations__",
    "await 3", "import asyncio; await asyncio.sleep(0); 5", "async for i in x: pass",
    "e = ValueError(1); e.__cause__ = e; raise e",
    "exec('1/0')", "exec('1 +')", "__file__", "_i, In[1], len(In)", "'''\n;'''", "3\n# ;",
    "raise UnicodeDecodeError('utf8', b'\\xff', 0, 1, 'r')", "raise asyncio.CancelledError",
    "_ = 7", "9", "_", "del _", "11", "_",
]  # fmt: skip


def _ipykernel(sources: list[str]) -> list[tuple[Any, ...]]:
    with remote_flame(name="python3") as kernel:
        runs = [kernel.execute(source) for source in sources]
    return [_summary(run.reply or {}, run.result) for run in runs]


def _summary(reply: dict[str, Any], result: str | None) -> tuple[Any, ...]:
    evalue = str(reply.get("evalue"))
    if reply.get("ename", "").endswith("Error") and ".py, line" in evalue:
        evalue = evalue[: evalue.rindex(" (")]  # the number in the name of the cell's file
    return reply["status"], reply["execution_count"], reply.get("ename"), evalue, reply["payload"], result


def test_as_ipykernel_does(pythons: tuple[Python, ...]) -> None:
    """Status, count, ename, evalue, payload and result of each source, on the same Python, are ipykernel's."""
    theirs = _ipykernel(SAME)
    ours: list[Answer] = ask(pythons[-1], *SAME)
    different = []
    for source, expected, answer in zip(SAME, theirs, ours, strict=True):
        got = _summary(answer.value, answer.result)
        if got != expected:
            different.append(f"{source[:60]!r}:\n  ipykernel {json.dumps(expected)}\n  ours      {json.dumps(got)}")
    assert not different, "\n".join(different)
