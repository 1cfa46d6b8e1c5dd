"""``jupyter flame exec``, ``eval`` and ``run``: streams, exit status and Ctrl-C as of a program on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import farside
import nbformat
import pexpect
import pytest
from farside import FlameServer, wait_until
from shell import COMMAND, flame, typed

from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.session.agent_client import AgentClient

WARM = ("nbclient", "nbformat", "jupyter_client.kernelspec", "flame_kernel.commands.cell_text")
pytestmark = pytest.mark.usefixtures("warm_commands")

KEY = farside.random_key()


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    far = FlameServer(farside.pythons()[-1], key=KEY)
    yield far
    far.stop()


@pytest.fixture
def there(server: FlameServer, tmp_path: Path) -> list[str]:
    """The options that name the server."""
    key = tmp_path / "server.key"
    key.touch(mode=0o600)
    key.write_text(KEY)
    return ["-t", server.location, "--key-file", str(key), "--shell", "mini"]


def test_statements(there: list[str]) -> None:
    done = flame("exec", *there, "import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
    assert (done.code, done.out, done.err) == (0, "out\n42\n", "err\n")
    done = flame("exec", *there, stdin="def f():\n    1 / 0\n\nf()\n")
    assert (done.code, done.out) == (1, "")
    assert "ZeroDivisionError: division by zero" in done.err
    assert "\x1b" not in done.err
    assert flame("exec", *there, "import sys; sys.exit(7)").code == 7
    assert flame("exec", *there, "!echo by the shell there").out == "by the shell there\n"


def test_values(there: list[str]) -> None:
    assert flame("eval", *there, "{'a': (1, 2)}").out == "{'a': (1, 2)}\n"
    done = flame("eval", *there, "--json", "-", stdin="{'a': [1, None]}\n")
    assert (done.code, json.loads(done.out)) == (0, {"a": [1, None]})
    done = flame("eval", *there, "--json", "object()")
    assert (done.code, done.out) == (1, "")
    assert "the value cannot be JSON" in done.err
    done = flame("eval", *there, "--json", "nothing")
    assert (done.code, done.err) == (1, "jupyter flame eval: NameError: name 'nothing' is not defined\n")


SCRIPT = """\
import pickle
import sys

import helper
from parts import sub


class Thing:
    value = helper.VALUE + sub.VALUE


thing = pickle.loads(pickle.dumps(Thing()))
print(sys.argv, __name__, __file__, thing.value)
print("to stderr", file=sys.stderr)
if sys.argv[1:] == ["fail"]:
    helper.fail()
if sys.argv[1:]:
    for line in sys.stdin:
        print("read", line.rstrip())
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script with a module and a package beside it."""
    folder = tmp_path / "work"
    (folder / "parts").mkdir(parents=True)
    (folder / "helper.py").write_text("VALUE = 40\n\n\ndef fail():\n    raise KeyError('no')\n")
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "sub.py").write_text("import other\n\nVALUE = other.VALUE\n")
    (folder / "other.py").write_text("VALUE = 2\n")
    (folder / "unused.py").write_text("this is no Python")
    (folder / "job.py").write_text(SCRIPT)
    return folder / "job.py"


def test_a_script_with_what_it_imports(there: list[str], script: Path, server: FlameServer) -> None:
    done = flame("run", *there, script, "3", "--verbose", stdin="one\ntwo\n")
    assert done.out == "['job.py', '3', '--verbose'] __main__ job.py 42\nread one\nread two\n"
    assert (done.code, done.err) == (3, "to stderr\n")
    done = flame("run", *there, "--session", "kept", script.name, cwd=script.parent)
    assert done.code == 0
    assert flame("eval", *there, "--session", "kept", "thing.value, '__file__' in globals()").out == "(42, True)\n"
    link = script.parent.parent / "linked.py"
    link.symlink_to(script)
    assert flame("run", *there, link, stdin="one\n").out.startswith("['linked.py'] __main__ linked.py 42\n")
    done = flame("run", *there, script, "fail")
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[:3] == ["to stderr", "Traceback (most recent call last):", '  File "job.py", line 16, in <module>']
    assert lines[-1] == "KeyError: 'no'"
    assert "_flame" not in done.err
    assert not list(Path(server.cwd).glob("*.py"))
    with contextlib.closing(AgentClient(Target(Location.parse(server.location), Secret(KEY.encode())))) as client:
        assert client.kill("kept")


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("import sys\nsys.exit('sorry')", 1, "sorry\n"),
        ("raise SystemExit", 0, ""),
        ("def (", 1, "SyntaxError"),
        ("import os\nos._exit(3)", 3, ""),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", 143, "ended with signal SIGTERM"),
    ],
)
def test_how_a_script_ends(text: str, code: int, says: str, there: list[str]) -> None:
    done = flame("run", *there, "-", stdin=text)
    assert (done.code, says in done.err) == (code, True), done


def test_ctrl_c_stops_the_far_side(there: list[str], tmp_path: Path, server: FlameServer) -> None:
    (tmp_path / "long.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(100)\n")
    command = [COMMAND, "run", *there, str(tmp_path / "long.py")]
    with subprocess.Popen(
        command,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().endswith("KeyboardInterrupt\n")
    wait_until(lambda: flame("eval", *there, "1").out == "1\n", "the server answers", 30)


def test_questions_in_a_terminal(there: list[str]) -> None:
    with typed("exec", *there, "name = input('who? '); print('hello', name)") as c:
        c.expect(r"\[\S+\] who\? ")
        c.sendline("Ada")
        c.expect_exact("hello Ada")
        c.expect_exact(pexpect.EOF)
        c.close()
        assert c.exitstatus == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("run", 2, "required: FILE"),
        ("run nowhere.py", 1, "cannot read nowhere.py: No such file or directory"),
        ("run nowhere.ipynb", 1, "cannot read nowhere.ipynb"),
        ("exec -t nobody x", 1, "there is no target 'nobody'"),
        ("exec -t localhost:1 x", 1, "connection refused"),
        ("exec --place nowhere x", 2, "invalid choice"),
        ("exec -t localhost:1 --key sesame x", 1, "must say where the key is"),
        ("eval -t localhost:1", 1, "there is no expression"),
    ],
)
def test_what_cannot_be(words: str, code: int, says: str, tmp_path: Path) -> None:
    done = flame(*words.split(), cwd=tmp_path)
    assert (done.code, says in done.err) == (code, True), done
    assert done.err.count("\n") == 1 or code == 2
    assert "sesame" not in done.err


def test_without_a_server_it_has_one_of_its_own() -> None:
    done = flame("eval", "--shell", "mini", "6 * 7")
    assert (done.code, done.out) == (0, "42\n"), done


def notebook(path: Path, *cells: str) -> Path:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(made, path)
    return path


def outputs(path: Path) -> list[list[str]]:
    cells = nbformat.read(path, as_version=4).cells
    return [[str(one.get("text") or one.get("ename") or one.data["text/plain"]) for one in c.outputs] for c in cells]


def test_a_notebook(there: list[str], tmp_path: Path, server: FlameServer) -> None:
    path = notebook(tmp_path / "a.ipynb", "import os\nprint(os.getcwd())", "1 / 0", "6 * 7")
    done = flame("run", *there, path, "-o", tmp_path / "b.ipynb", "--allow-errors")
    assert (done.code, done.out) == (0, f"{tmp_path / 'b.ipynb'}: 3 cells\n"), done
    assert outputs(tmp_path / "b.ipynb") == [[f"{server.cwd}\n"], ["ZeroDivisionError"], ["42"]]
    assert outputs(path) == [[], [], []]


def test_a_notebook_tells_a_terminal_which_cell_runs(there: list[str], tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb", "one = 1", "", f"open({str(tmp_path / 'go')!r}).read()", "3")
    os.mkfifo(tmp_path / "go")
    with typed("run", *there, path, "-o", tmp_path / "b.ipynb") as child:
        child.expect_exact("a.ipynb: cell 1 of 3")
        child.expect_exact("a.ipynb: cell 2 of 3")  # and it runs: it waits for us
        (tmp_path / "go").write_text("now")
        child.expect_exact("a.ipynb: cell 3 of 3")
        child.expect_exact(f"\r\x1b[K{tmp_path / 'b.ipynb'}: 3 cells")
        child.expect(pexpect.EOF)


def test_a_notebook_that_fails(there: list[str], tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb", "1 / 0", "'after'")
    done = flame("run", *there, path, "--inplace")
    assert done.code == 1
    assert done.err == f"jupyter flame run: {path}: a cell failed: ZeroDivisionError: division by zero\n"
    assert outputs(path) == [["ZeroDivisionError"], []]
    (tmp_path / "no.ipynb").write_text("{")
    assert "is not a notebook" in flame("run", *there, tmp_path / "no.ipynb").err
    assert "targets.toml" in flame("run", *there, "--tls", path).err
