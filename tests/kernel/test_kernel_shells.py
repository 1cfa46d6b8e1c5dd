"""The two shells of the far side, IPython's and the agent's own, and one conversation with every Python there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
from farside import FlameServer, LiveApp, Python, wait_until
from kernels import Kernel, Run
from needs import missing
from places import Site, kernel_at, kernel_on, ok, server_at, uncoloured

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import load_target


@pytest.fixture(scope="module", params=["child", "process"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Where there is IPython."""
    with kernel_at(request.param) as site:
        yield site


# The oldest, a middle and the newest Python that have no IPython, at both places between them.
BARE = [("3.6", "child"), ("3.6", "process"), ("3.8", "process"), ("3.13", "child"), ("3.13", "process")]


@pytest.fixture(scope="module", params=BARE, ids=[f"{version}-{place}" for version, place in BARE])
def bare(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Where there is none."""
    version, place = request.param
    found = [python for python in farside.pythons() if python.name == version]
    if not found:
        missing(f"Python {version} without IPython (pyenv)")
    with kernel_at(place, python=found[0]) as site:
        yield site


def page(run: Run) -> str:
    """The text that a reply has for the pager."""
    assert run.reply is not None
    (payload,) = run.reply["payload"]
    assert payload["source"] == "page"
    return uncoloured(payload["data"]["text/plain"])


# -- with IPython ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "stdout", "result"),
    [
        ("%pwd", "", "'.*/cwd'"),
        ("%env HOME", "", "'.*'"),
        ("%precision 3\n3.14159", "", "3.142"),
        ("%precision\n%xmode Context", "Exception reporting mode: Context\n", None),
        ("v = %who_ls\ntype(v)", "", "list"),
        ("%%capture kept\nprint('hidden')", "", None),
        ("%%bash\necho from bash", "from bash\n", None),
        ("%%time\ntotal = sum(range(1000))", "(CPU times: .*\n)?Wall time: .*\n", None),
        ("%time 6 * 7", "(CPU times: .*\n)?Wall time: .*\n", "42"),
        ("%timeit -n 2 -r 2 pass", ".* ± .* per loop \\(mean ± std. dev. of 2 runs, 2 loops each\\)\n", None),
        ("%%timeit -n 2 -r 2\nx = 1\ny = 2", ".* per loop .*\n", None),
        ("%load_ext autoreload\n%autoreload 2", "", None),
        ("%%python\nprint('a new interpreter')", "a new interpreter\n", None),
        ("%config ZMQInteractiveShell.autocall", "", "0"),
        ("%alias_magic tt time\n%tt 1", "Created.*\n(.*\n)*Wall time: .*\n", "1"),
        ("x = !echo one; echo two\nlist(x)", "", r"\['one', 'two'\]"),
        ("name = 'value'\n!echo {name} $name", "value value\n", None),
        ("!exit 3\n_exit_code", "", "3"),
        ("%system echo listed", "", r"\['listed'\]"),
        ("get_ipython().__class__.__name__", "", "'ZMQInteractiveShell'"),
        ("from IPython import get_ipython as g\ng() is get_ipython()", "", "True"),
    ],
)
def test_magics_of_ipython(kernel: Kernel, code: str, stdout: str, result: str | None) -> None:
    run = ok(kernel.execute(code))
    assert re.fullmatch(stdout, run.stdout), run.stdout
    assert run.result is None if result is None else re.fullmatch(result, run.result or ""), run.result
    assert run.stderr == ""


def test_rich_cell_magics(kernel: Kernel) -> None:
    for magic, mime in (("html", "text/html"), ("latex", "text/latex"), ("javascript", "application/javascript")):
        (data,) = ok(kernel.execute(f"%%{magic}\ntext of it")).displays
        assert data[mime].strip() == "text of it"


def test_a_magic_that_there_is_not(kernel: Kernel) -> None:
    run = kernel.execute("%no_such_magic")
    assert "UsageError: Line magic function `%no_such_magic` not found" in run.stderr


def commands_stream(kernel: Kernel, go: Path) -> None:
    run = kernel.submit(
        f"!echo first; while [ ! -e {go} ]; do sleep 0.01; done; echo last; echo trouble >&2\n_exit_code"
    )
    kernel.wait_for_output(run, "first")
    assert run.reply is None
    go.touch()
    ok(kernel.wait(run))
    assert run.stdout.splitlines()[:2] == ["first", "last"]
    assert "trouble" in run.stdout + run.stderr
    assert run.result == "0"


def test_a_command_streams_as_it_runs(kernel: Kernel, tmp_path: Path) -> None:
    commands_stream(kernel, tmp_path / "go")


def inspection_shows(kernel: Kernel) -> None:
    ok(kernel.execute("def shown(a, b=2):\n    'The words of it.'\n    return a * b  # the source"))
    text = page(ok(kernel.execute("shown?")))
    assert "shown(a, b=2)" in text
    assert "The words of it." in text
    assert "# the source" not in text
    text = page(ok(kernel.execute("shown??")))
    assert "return a * b  # the source" in text
    assert "Return the length" in page(ok(kernel.execute("?len"))) or "number of items" in page(kernel.execute("len?"))
    assert "not found" in ok(kernel.execute("no_such_name?")).stdout
    reply = kernel.inspect("shown(1")
    assert reply["found"]
    assert "The words of it." in uncoloured(reply["data"]["text/plain"])
    assert not kernel.inspect("no_such_name")["found"]


def test_questions(kernel: Kernel) -> None:
    inspection_shows(kernel)


def test_run_of_a_script(kernel: Kernel, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(__name__, sys.argv[1:])\nmade = 'by the script'\n")
    assert ok(kernel.execute(f"%run {script} a b\nmade")).stdout == "__main__ ['a', 'b']\n"
    assert ok(kernel.execute("made")).result == "'by the script'"
    script.write_text("def deep():\n    1 / 0\ndeep()\n")
    run = kernel.execute(f"%run {script}")
    assert "ZeroDivisionError" in run.traceback
    assert "deep()" in uncoloured(run.traceback)


def debugger_answers(kernel: Kernel) -> None:
    run = kernel.execute("def fail(value):\n    inner = value + 1\n    return inner / 0\nfail(41)")
    assert run.error is not None
    run = ok(kernel.execute("%debug", answers=("p inner", "up", "p 'in the cell'", "q")))
    assert "42" in run.stdout
    assert "in the cell" in run.stdout
    assert all("pdb" in prompt for prompt, _ in run.prompts)
    assert ok(kernel.execute("1")).result == "1"


def test_debug_answers(kernel: Kernel) -> None:
    debugger_answers(kernel)


def test_breakpoint_answers(kernel: Kernel) -> None:
    code = "def stop():\n    here = 5\n    breakpoint()\n    return here\nstop()"
    run = ok(kernel.execute(code, answers=("p here + 1", "c")))
    assert "6" in run.stdout
    assert run.result == "5"


def test_matplotlib_inline_magic(kernel: Kernel) -> None:
    (image,) = ok(kernel.execute("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1]);")).displays
    assert "image/png" in image


# -- without it ------------------------------------------------------------------------------------------------------


def test_cells_without_ipython(bare: Site) -> None:
    kernel = bare.kernel
    run = ok(kernel.execute("import sys\nprint('out'); print('err', file=sys.stderr)\n'IPython' in sys.modules, 6 * 7"))
    assert (run.stdout, run.stderr, run.result) == ("out\n", "err\n", "(False, 42)")
    assert ok(kernel.execute("_[1] + 1, len(In) > 1, Out is _oh")).result == "(43, True, True)"
    run = ok(kernel.execute("class H:\n    def _repr_html_(self): return '<b>h</b>'\ndisplay(H())\nH()"))
    assert [m.content["data"]["text/html"] for m in run.output] == ["<b>h</b>"] * 2
    run = ok(kernel.execute("import asyncio\nawait asyncio.sleep(0.01, 'awaited')"))
    assert run.result == "'awaited'"
    run = kernel.execute("def f():\n    return 1 / 0\nf()")
    assert run.error is not None
    assert "return 1 / 0" in uncoloured(run.traceback)
    assert "flame_agent" not in run.traceback


def test_completion_without_ipython(bare: Site) -> None:
    kernel = bare.kernel
    ok(kernel.execute("import os\nremote_name = {'key': 1}"))
    reply = kernel.complete("x = remote_na")
    assert reply["matches"] == ["remote_name"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (4, 13)
    assert (
        "os.path.join" in kernel.complete("os.path.jo")["matches"] or "join" in kernel.complete("os.path.jo")["matches"]
    )
    assert "%timeit" in kernel.complete("%time")["matches"]
    assert kernel.complete("no_such.attribute")["matches"] == []


def test_questions_without_ipython(bare: Site) -> None:
    inspection_shows(bare.kernel)


def test_commands_without_ipython(bare: Site, tmp_path: Path) -> None:
    kernel = bare.kernel
    commands_stream(kernel, tmp_path / "go")
    assert ok(kernel.execute("x = !echo one; echo two\nlist(x)")).result == "['one', 'two']"
    assert ok(kernel.execute("name = 'value'\n!echo {name} $name")).stdout == "value value\n"
    assert ok(kernel.execute("!exit 3\n_exit_code")).result == "3"
    assert ok(kernel.execute("%%bash\necho from bash")).stdout == "from bash\n"


def test_magics_without_ipython(bare: Site, tmp_path: Path) -> None:
    kernel = bare.kernel
    assert re.search("Wall time: ", ok(kernel.execute("%time sum(range(1000))")).stdout)
    assert re.search("Wall time: ", ok(kernel.execute("%%time\ntotal = sum(range(1000))")).stdout)
    assert ok(kernel.execute("total")).result == "499500"
    assert "2 runs, 3 loops each" in ok(kernel.execute("%timeit -n 3 -r 2 pass")).stdout
    here = ok(kernel.execute("%pwd")).result
    assert str(tmp_path) in ok(kernel.execute(f"%cd {tmp_path}")).stdout
    assert ok(kernel.execute("%pwd")).result == repr(str(tmp_path))
    assert ok(kernel.execute("%cd -\n%pwd")).result == here
    run = kernel.execute("def f(x):\n    return x / 0\nf(41)")
    run = ok(kernel.execute("%debug", answers=("p x + 1", "q")))
    assert "42" in run.stdout


@pytest.mark.parametrize("code", ["%prun 1 + 1", "%%cython\nx = 1", "x = %store"])
def test_a_magic_that_is_lacking_is_named_with_the_reason(bare: Site, code: str) -> None:
    run = bare.kernel.execute(code)
    assert run.reply is not None
    assert run.reply["status"] == "error"
    name = re.findall(r"%+\w+", code)[0]
    version = ".".join(map(str, bare.server.python.version))
    assert re.fullmatch(
        rf"UsageError: {name} needs IPython, which is not installed on \S+ \(Python {re.escape(version)}\)"
        + (": %flame pip install ipython, then a new session\n" if bare.server.python.version >= (3, 7) else "\n"),
        run.stderr,
    )
    assert ok(bare.kernel.execute("1")).result == "1"


def test_the_status_says_which_shell(site: Site) -> None:
    assert re.search(r"IPython \d", ok(site.kernel.execute("%flame status")).stdout)


def test_the_status_says_that_there_is_no_ipython(bare: Site) -> None:
    text = ok(bare.kernel.execute("%flame status")).stdout
    assert "built-in shell" in text
    assert ".".join(map(str, bare.server.python.version)) in text
    assert ("child process" if bare.in_child else "server's own process") in text


# -- every Python ----------------------------------------------------------------------------------------------------


def asks(server: FlameServer | LiveApp, expression: str, environ: dict[str, str]) -> Any:
    """The value of an expression on the server, by stock Flame's own evaluate."""
    link = Connection(load_target(None, environ=environ))
    try:
        return link.call("evaluate", expression)
    finally:
        link.close()


THREADS = "sorted(t.name for t in __import__('threading').enumerate() if t.name.startswith('flame-'))"
MODULES = "sorted({n.split('.')[0] for n in __import__('sys').modules if n.startswith('flame_')})"


@pytest.mark.parametrize("place", ["child", "process"])
def test_the_core_conversation(
    each_python: Python, place: str, key_file: Callable[[str], Path], tmp_path: Path
) -> None:
    number = farside.every_python().index(each_python) + (place == "process")
    servertype = "multiplex" if number % 2 else "thread"
    key = farside.random_key() if number % 4 in (1, 2) else None
    with server_at(place, each_python, servertype=servertype, key=key) as server:
        env: dict[str, str | None] = {"FLAME_KEY_FILE": str(key_file(key))} if key else {}
        with kernel_on(server, place, env) as site:
            converse(site, each_python)
        environ = {"FLAME_TARGET": server.location, **{name: value for name, value in env.items() if value}}
        # The kernel is gone; nothing of ours is left there but the agent's text.
        wait_until(lambda: not server.children(), "the end of the session's processes")
        wait_until(lambda: asks(server, THREADS, environ) == [], "the end of the agent's threads")
        assert [name.startswith("flame_agent_") for name in asks(server, MODULES, environ)] == [True]


def converse(site: Site, python: Python) -> None:
    kernel = site.kernel
    run = ok(kernel.execute("import sys\nprint('hello', *sys.version_info[:2])\n6 * 7"))
    assert run.stdout == f"hello {python.version[0]} {python.version[1]}\n"
    assert run.result == "42"
    assert kernel.kernel_info()["language_info"]["version"] == ".".join(map(str, python.version))

    run = kernel.execute("def divide(a):\n    return a / 0\n\ndivide(1)")
    assert run.error is not None
    assert run.error["ename"] == "ZeroDivisionError"
    text = uncoloured(run.traceback)
    assert "return a / 0" in text
    assert "divide(1)" in text
    assert "flame_agent" not in text

    ok(kernel.execute("state = [1]"))
    ok(kernel.execute("state.append(2)"))
    assert ok(kernel.execute("state")).result == "[1, 2]"

    matches = kernel.complete("state.app")["matches"]
    assert any(match.endswith("append") for match in matches)
    reply = kernel.inspect("divide")
    assert reply["found"]
    assert "divide(a)" in uncoloured(reply["data"]["text/plain"])

    run = ok(kernel.execute("import getpass\ninput('name? ') + getpass.getpass('word? ')", answers=("é", "x")))
    assert run.prompts == [("name? ", False), ("word? ", True)]
    assert run.result == "'éx'"

    run = kernel.submit("print('spinning')\nwhile True: pass")
    kernel.wait_for_output(run, "spinning")
    kernel.interrupt()
    kernel.wait(run, 10)
    assert run.error is not None
    assert run.error["ename"] == "KeyboardInterrupt"
    assert ok(kernel.execute("state")).result == "[1, 2]"

    usage = kernel.usage()
    far_pid = int(ok(kernel.execute("import os\nprint(os.getpid())")).stdout)
    assert usage["pid"] == far_pid
    assert (far_pid == site.server.pid) is not site.in_child
    assert usage["hostname"]
    assert usage["kernel_memory"] > 1_000_000
