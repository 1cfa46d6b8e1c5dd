"""``%flame`` and ``%%flame`` in ``ipython``, at a real terminal: a user's keys and what is on the screen."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from farside import FlameServer

PATIENCE = 30


class Terminal:
    """``ipython`` in a terminal of 200 columns; ``type`` is what hands do, ``see`` what eyes wait for."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "ipython").mkdir()
        env = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), "TERM": "xterm", "PYTHONUNBUFFERED": "1"}
        arguments = ("-m", "IPython", "--no-banner", "--no-confirm-exit", "--colors=nocolor", *arguments)
        self.child = pexpect.spawn(
            sys.executable, [*arguments], env=env, cwd=str(folder), encoding="utf-8", timeout=PATIENCE
        )
        self.child.setwinsize(50, 200)
        self.prompt()

    def type(self, text: str) -> None:
        self.child.send(text)

    def see(self, text: str) -> str:
        """Wait for ``text``; what stood before it since the last time."""
        self.child.expect_exact(text)
        before = self.child.before
        assert isinstance(before, str)
        return before

    def prompt(self) -> str:
        """Wait for IPython's next prompt; what stood before it."""
        self.child.expect(r"In \[\d+\]: ")
        before = self.child.before
        assert isinstance(before, str)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", before)

    def cell(self, *lines: str) -> None:
        """Type a cell and run it."""
        for line in lines:
            self.type(line + "\n")
        if len(lines) > 1:
            self.type("\n\n")  # what ends a cell in a terminal

    def leave(self) -> None:
        """End it as a user does."""
        self.type("exit\n")
        self.child.expect(pexpect.EOF)
        self.child.wait()


@contextlib.contextmanager
def terminal_in(folder: Path) -> Iterator[Terminal]:
    """An ``ipython`` with the extension loaded."""
    terminal = Terminal(folder, "--simple-prompt")
    try:
        terminal.cell("%load_ext flame")
        terminal.prompt()
        yield terminal
        terminal.leave()
    finally:
        terminal.child.close(force=True)


@pytest.fixture
def terminal(tmp_path: Path, flame_server: Callable[..., FlameServer]) -> Iterator[Terminal]:
    """An ``ipython`` that is connected as ``pi``."""
    server = flame_server()
    with terminal_in(tmp_path) as terminal:
        terminal.cell(f"%flame connect {server.location} --as pi")
        assert "pi: cells run at" in terminal.prompt()
        yield terminal


def test_a_session_at_the_terminal(terminal: Terminal) -> None:
    terminal.cell("%%flame", "import time, getpass", "print('six times')", "6 * 7")
    shown = terminal.prompt()
    assert "six times" in shown
    assert re.search(r"Out\[\d+\]: 42", shown)
    terminal.cell("_ + 1")
    assert "43" in terminal.prompt()

    # Prompts of the far side, one of them unseen.
    terminal.cell("%%flame", "told = input('Name? '), getpass.getpass('Word? ')")
    terminal.see("Name? ")
    terminal.type("ada\n")
    terminal.see("Word? ")
    terminal.type("s3cret\n")
    assert "s3cret" not in terminal.prompt()
    terminal.cell("%flame eval told")
    assert "('ada', 's3cret')" in terminal.prompt()

    # Ctrl-C.
    terminal.cell("%%flame", "print('as' + 'leep')", "time.sleep(100)")
    terminal.see("asleep")
    terminal.type("\x03")
    shown = terminal.prompt()
    assert "KeyboardInterrupt" in shown
    assert "time.sleep(100)" in shown
    assert "flame_kernel" not in shown
    terminal.cell("%flame eval 2 ** 10")
    assert "1024" in terminal.prompt()

    # An error, coloured or not, is the far side's.
    terminal.cell("%%flame", "1 / 0")
    shown = terminal.prompt()
    assert "ZeroDivisionError" in shown
    assert "flame_kernel" not in shown

    # A job prints while the prompt stands.
    terminal.cell("%%flame --bg --out job", "for n in range(3):", "    print('job', n)", "    time.sleep(0.05)", "")
    terminal.see("job 2")
    terminal.cell("job.wait(), job.output")
    assert r"(True, 'job 0\njob 1\njob 2\n')" in terminal.prompt()


def test_the_console_at_the_terminal(terminal: Terminal) -> None:
    for _ in range(2):  # it can be repeated
        terminal.cell("%flame console")
        terminal.see("(Remote console on ")
        terminal.see(">>> ")
        terminal.type("6 * 7\n")
        terminal.see("42")
        terminal.see(">>> ")
        terminal.type("\x04")
        terminal.see("(Remote session ended)")
        terminal.prompt()


def test_a_key_is_asked_for_without_echo(tmp_path: Path, flame_server: Callable[..., FlameServer]) -> None:
    key = "the-key-of-the-server-0123456789"
    server = flame_server(key=key)
    with terminal_in(tmp_path) as terminal:
        terminal.cell(f"%flame connect {server.location} --as pi")
        terminal.see("Key of the flame server at")
        terminal.type(f"{key}\n")
        shown = terminal.prompt()
        assert "pi: cells run at" in shown
        assert key not in shown
        terminal.cell("%flame eval 6 * 7")
        assert "42" in terminal.prompt()
    assert not [path for path in (tmp_path / "ipython").rglob("*.sqlite*") if key.encode() in path.read_bytes()]
