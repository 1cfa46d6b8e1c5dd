"""The remote console: as Flame's manual shows it, in a terminal, in IPython and in a notebook."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import farside
import pexpect
import pytest
from farside import FlameServer
from kernels import remote_flame
from shell import tab, terminal

import flame
from flame_kernel.errors import FlameError
from flame_kernel.remote.console import Console

SCRIPT = (
    "import flame\nwith flame.connect({location!r}) as pi, pi.console() as console:\n    console.interact()\n{more}"
)


def python(*arguments: str, **environ: str) -> AbstractContextManager[pexpect.spawn[str]]:
    """Python in a terminal."""
    settings = {"TERM": "xterm", "PYTHONWARNINGS": "ignore", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"}
    return terminal(sys.executable, *arguments, env={**os.environ, **settings, **environ})


def prompt(c: pexpect.spawn[str], words: str = ">>> ") -> str:
    """Wait for a prompt; what was shown before it, without what moves the cursor and colours."""
    c.expect_exact(words)
    return plain(str(c.before)).replace("\r", "")


def ran(c: pexpect.spawn[str], *lines: str) -> str:
    """Type a statement, and wait for the next prompt: what was shown between."""
    for line in lines[:-1]:
        c.send(line + "\r")
        c.expect_exact("...")
    c.send(lines[-1] + "\r")
    c.expect(r"\x1b\[\?2004l")  # what is typed has been taken: what comes now is the far side's
    return prompt(c)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_the_example_of_the_manual(server: FlameServer, tmp_path: Path) -> None:
    """Banner, prompts, values, Ctrl-D, and again."""
    more = "    console.interact()\nprint('left')\n"
    with python("-c", SCRIPT.format(location=server.location, more=more)) as c:
        c.expect(r"Python (\S+) ")
        assert c.match.group(1) == ".".join(map(str, farside.pythons()[-1].version))
        c.expect_exact(f" on linux\r\n(Remote console on {server.location})\r\n")
        prompt(c)
        ran(c, "import socket, os")
        assert f"'{os.uname().nodename}'\n" in ran(c, "socket.gethostname()")
        assert f"'{server.cwd}'\n" in ran(c, "os.getcwd()")
        c.sendeof()
        c.expect_exact("(Remote session ended)")
        c.expect_exact(f"(Remote console on {server.location})\r\n")
        prompt(c)
        assert f"'{os.uname().nodename}'\n" in ran(c, "socket.gethostname()  # names stay")
        c.send("exit()\r")
        c.expect_exact("(Remote session ended)")
        c.expect_exact("left")
        c.expect(pexpect.EOF)
    assert server.alive


def test_it_streams_asks_stops_and_completes(server: FlameServer) -> None:
    with python("-c", SCRIPT.format(location=server.location, more="")) as c:
        prompt(c)
        # Several lines, ended by an empty one; nothing is sent before.
        ran(c, "def double(x):", "return 2 * x", "")
        assert "42\n" in ran(c, "double(21)")
        # Output while it runs: the far side waits for what only somebody who has seen it can type.
        ran(c, "import sys")
        c.send("print('fir' + 'st', flush=True); name = input('who' + '? '); print('hello', name, file=sys.stderr)\r")
        c.expect_exact("first\r\n")
        c.expect(r"\[\S+\] who\? ")
        c.sendline("Ada")
        c.expect_exact("hello Ada\r\n")
        prompt(c)
        c.send("import getpass; len(getpass.getpass('wo' + 'rd: '))\r")
        c.expect_exact("] word: ")
        c.sendline("sesame")
        c.expect_exact("6\r\n")
        assert "sesame" not in c.before
        prompt(c)
        # The end of input for a program there.
        c.send("input('en' + 'd? ')\r")
        c.expect_exact("] end? ")
        c.sendeof()
        c.expect_exact("EOFError")
        prompt(c)
        # Errors; Esc Enter runs what looks as if more would come.
        assert "ZeroDivisionError" in ran(c, "1 // 0")
        assert "SyntaxError" in ran(c, "def (\x1b")
        # Ctrl-C stops the far side, and at the prompt the line.
        c.send("import time; print('work' + 'ing', flush=True); time.sleep(100)\r")
        c.expect_exact("working\r\n")
        c.sendintr()
        c.expect_exact("KeyboardInterrupt")
        prompt(c)
        c.send("never sent")
        c.sendintr()
        c.expect_exact("KeyboardInterrupt")
        prompt(c)
        c.send("if True:\r")
        c.expect_exact("...")
        c.sendintr()
        c.expect_exact("KeyboardInterrupt")
        prompt(c)
        # Tab: the far side's names, in a line that was begun before too.
        ran(c, "globals()['tele' + 'scope'] = 5")
        c.send("teles")
        tab(c, "cope")
        assert "6\n" in ran(c, " + 1")
        c.send("if True:\rprint(teles")
        tab(c, "cope")
        assert "5\n" in ran(c, ")", "")
        c.sendeof()
        c.expect_exact("(Remote session ended)")
        c.expect(pexpect.EOF)


def test_the_history_is_its_own(server: FlameServer, tmp_path: Path) -> None:
    """Up recalls what was typed here, in an earlier process too; the local prompt's own history has none of it."""
    script = (
        "import readline\nreadline.add_history('local line')\n"
        + SCRIPT.format(location=server.location, more="")
        + "print([readline.get_history_item(i + 1) for i in range(readline.get_current_history_length())])\n"
    )
    folder = str(tmp_path / "data")
    for number in range(2):
        with python("-c", script, JUPYTER_DATA_DIR=folder) as c:
            prompt(c)
            if not number:
                assert "'REMEMBERED'" in ran(c, "'remembered'.upper()")
                c.send("_ = input('no' + 'w: ')\r")
                c.expect_exact("] now: ")
                c.sendline("an answer, no line")
                prompt(c)
            else:
                c.send("\x1b[A\x1b[A")  # Up, Up
                assert "'REMEMBERED'" in ran(c, "")
            c.sendeof()
            c.expect_exact("(Remote session ended)")
            c.expect(pexpect.EOF)
            assert "['local line']" in plain(c.before)
    kept = tmp_path / "data" / "flame_console_history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "an answer" not in kept.read_text()


def test_where_an_event_loop_runs(server: FlameServer) -> None:
    """As in `python -m asyncio`, or below a coroutine of the user's."""
    script = (
        "import asyncio, flame\nasync def main():\n    flame.connect({!r}).console().interact()\nasyncio.run(main())\n"
    )
    with python("-c", script.format(server.location)) as c:
        prompt(c)
        assert "42\n" in ran(c, "6 * 7")
        c.sendeof()
        c.expect_exact("(Remote session ended)")
        c.expect(pexpect.EOF)


def test_from_ipython(server: FlameServer) -> None:
    with python("-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner", "--no-confirm-exit") as c:
        c.expect(r"In \[1\]: ")
        c.sendline(f"import flame; pi = flame.connect({server.location!r}); pi.console().interact()")
        c.expect_exact("(Remote console on ")
        prompt(c)
        assert "42\n" in ran(c, "6 * 7")
        c.sendeof()
        c.expect_exact("(Remote session ended)")
        c.expect(r"In \[2\]: ")
        c.sendline("pi.close()")
        c.expect(r"In \[3\]: ")
        c.sendline("exit")
        c.expect(pexpect.EOF)


def test_from_a_notebook(server: FlameServer) -> None:
    """By input boxes; what is typed goes to the far side, and ``exit`` is the way out, or Stop."""
    with remote_flame(name="python3") as kernel:
        kernel.execute(f"import flame; pi = flame.connect({server.location!r})")
        run = kernel.execute(
            "pi.console().interact()",
            answers=("import os", "'%s' % os.getpid()", "input('deeper: ')", "answer", "exit"),
        )
        assert f"(Remote console on {server.location})" in run.stdout
        (child,) = server.children()
        assert f"'{child.pid}'" in run.stdout
        assert "'answer'" in run.stdout
        assert run.stdout.endswith("(Remote session ended)\n")
        assert ("deeper: ", False) in run.prompts
        run = kernel.submit("pi.console().interact()")
        kernel.wait_for(lambda: run.prompts, "a prompt")
        kernel.interrupt()
        kernel.wait(run)
        assert run.stdout.endswith("(Remote session ended)\n")
        kernel.execute("pi.close()")


def test_without_a_terminal(server: FlameServer) -> None:
    """Lines from a pipe, to their end; what the end cuts short of its empty line is run too."""
    script = SCRIPT.format(location=server.location, more="")
    lines = "x = 6\nfor i in range(2):\n    print(i * x)\n\nx\nraise SystemExit\nx + 1\nif x:\n    print('last')"
    done = subprocess.run([sys.executable, "-c", script], input=lines, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.lstrip(">. ") for line in done.stdout.splitlines()][2:] == [
        "0",
        "6",
        "6",
        "7",
        "",
        "last",
        "",
        "(Remote session ended)",
    ]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def type_lines(*lines: str | type[BaseException] | Callable[[], str]) -> None:
        waiting = iter(lines)

        def answer(prompt: str = "") -> str:
            line = next(waiting, EOFError)
            if isinstance(line, type):
                raise line
            return line if isinstance(line, str) else line()

        monkeypatch.setattr("builtins.input", answer)

    return type_lines


def test_statements_that_this_python_cannot_read_are_the_far_side_s(
    server: FlameServer, typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with flame.connect(server.location) as pi:
        typed("%who_ls", "!echo from the shell", "await __import__('asyncio').sleep(0, 'awaited')", "'\\q'", "\x04")
        Console(pi).interact()
    out = capsys.readouterr()
    assert "from the shell" in out.out
    assert "'awaited'" in out.out
    assert "Traceback" not in out.err


def test_the_end_of_the_session_ends_it(typed: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    server = FlameServer(farside.pythons()[-1])
    try:
        pi = flame.connect(server.location)

        def gone() -> str:
            pi.session.close()
            return "1 + 1"

        typed("6 * 7", gone, "never asked for")
        Console(pi).interact()
        out = capsys.readouterr()
        assert "42" in out.out
        assert out.out.endswith("(Remote session ended)\n")
        assert "SessionGone: the session at " in out.err
        with pytest.raises(FlameError):
            Console(pi).interact()
        pi.close()
    finally:
        server.stop()


def test_a_server_that_nobody_vouches_for_does_not_steer_the_terminal(
    server: FlameServer, typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\\x1b]52;c;cm0gLXJm\\x07\\x1b]0;title\\x07\\x1b[2J"
    with flame.connect(server.location) as pi:
        typed(
            f"print('{evil}safe')",
            f"from IPython.display import display; display({{'text/plain': '{evil}shown'}}, raw=True)",
            f"raise ValueError('{evil}raised')",
            f"import sys; _ = sys.stderr.write('\\x1b[31mred\\x1b[0m{evil}')",
        )
        Console(pi).interact()
    out = capsys.readouterr()
    for text in (out.out, out.err):
        assert "\x1b]" not in text
        assert "\x1b[2J" not in text
    assert "safe" in out.out
    assert "shown" in out.out
    assert "raised" in out.err
    assert "\x1b[31mred\x1b[0m" in out.err
