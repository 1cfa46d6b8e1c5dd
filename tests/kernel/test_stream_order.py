"""In which order output is seen, and that lines are whole: stdout beside stderr, forks, C code with pieces of lines."""

from __future__ import annotations

import pytest
from kernels import Kernel, Run
from places import Site, ok


def turns(run: Run) -> list[tuple[str, str]]:
    """The words of stdout and stderr, in the order in which they are shown."""
    return [(m.content["name"], word) for m in run.of_type("stream") for word in m.content["text"].split()]


@pytest.mark.parametrize("flush", [True, False])
def test_stdout_and_stderr_take_turns(kernel: Kernel, flush: bool) -> None:
    code = f"import sys\nfor i in range(40):\n    print(i, flush={flush}); print(i, file=sys.stderr, flush={flush})"
    run = ok(kernel.execute(code))
    assert turns(run) == [(name, str(i)) for i in range(40) for name in ("stdout", "stderr")]


def test_turns_of_logging_and_of_writelines(kernel: Kernel) -> None:
    code = """
import logging, sys, threading
log = logging.getLogger('flame.order'); log.propagate = False
handler = logging.StreamHandler(sys.stderr); log.addHandler(handler)
print('a'); log.warning('b')
sys.stdout.writelines(['c', '\\n']); sys.stderr.write('d\\n'); display('shown'); print('e')
log.removeHandler(handler)
"""
    run = ok(kernel.execute(code))
    wanted = [("stdout", "a"), ("stderr", "b"), ("stdout", "c"), ("stderr", "d"), ("stdout", "e")]
    assert turns(run) == wanted
    kinds = [m.type for m in run.output]
    assert kinds[-2:] == ["display_data", "stream"]


def test_turns_without_end_are_not_slow(kernel: Kernel) -> None:
    """They may be merged: no message for each word, and all that was printed comes."""
    code = "import sys\nfor i in range(20_000): sys.stdout.write('o\\n'); sys.stderr.write('e\\n')"
    run = ok(kernel.execute(code))
    assert (run.stdout, run.stderr) == ("o\n" * 20_000, "e\n" * 20_000)
    assert len(run.of_type("stream")) < 4000


def test_many_queued_cells_that_show_values_and_take_turns(kernel: Kernel) -> None:
    code = "import sys\nprint('o'); print('e', file=sys.stderr); {0}"
    runs = [kernel.submit(code.format(n)) for n in range(100)]
    for n, run in enumerate(runs):
        ok(kernel.wait(run, 60))
        assert run.result == str(n)
        assert turns(run) == [("stdout", "o"), ("stderr", "e")]


FORKS = {
    "pool": (
        "import multiprocessing as mp\ndef f(i): print('w', i); return i\n"
        "with mp.get_context('fork').Pool(2) as p: print(sum(p.map(f, range(10))))",
        sorted(["45", *(f"w {i}" for i in range(10))]),
    ),
    "two forks": (
        "import os\npids = []\nfor n in range(2):\n    pids.append(os.fork())\n    if not pids[-1]:\n"
        "        for i in range(50): print('fork', n, 'line', i)\n        os._exit(0)\n"
        "for pid in pids: os.waitpid(pid, 0)",
        sorted(f"fork {n} line {i}" for n in range(2) for i in range(50)),
    ),
    "no end of line": (
        "import os\npid = os.fork()\nif not pid:\n    print('begun', end=''); os._exit(0)\nos.waitpid(pid, 0);",
        ["begun"],
    ),
    "to the end of the cell": (
        "import os\npid = os.fork()\nif pid: status = os.waitpid(pid, 0)[1]; print('parent', status)\n"
        "else: print('fork')",
        ["fork", "parent 0"],
    ),
    "an error": (
        "import os\npid = os.fork()\nif not pid: 1 / 0\nprint('status', os.waitpid(pid, 0)[1] >> 8)",
        ["status 1"],
    ),
    "process": (
        "import multiprocessing as mp\np = mp.get_context('fork').Process(target=print, args=('a', 'b'))\n"
        "p.start(); p.join(); print('c')",
        ["a b", "c"],
    ),
}


@pytest.mark.parametrize("how", FORKS)
def test_lines_of_forks_are_whole(site: Site, kernel: Kernel, how: str) -> None:
    code, lines = FORKS[how]
    run = ok(kernel.execute(code))
    assert sorted(run.stdout.splitlines()) == lines
    assert "flame_agent" not in run.stderr
    assert ("ZeroDivisionError" in run.stderr) == (how == "an error")
    assert ok(kernel.execute("print('next')")).stdout == "next\n"


PIECES = """
import os, time
def pieces(fd, text):
    for c in text: os.write(fd, c.encode())
"""


def test_pieces_of_a_line_are_not_torn_apart(site: Site, kernel: Kernel) -> None:
    if not site.in_child:
        pytest.skip("descriptors 1 and 2 are the app's")
    ok(kernel.execute(PIECES))
    code = """
import threading
t = threading.Thread(target=lambda: [pieces(1, 'a line of C code\\n') for _ in range(20)]); t.start()
for i in range(200): print('print')
t.join()
"""
    run = ok(kernel.execute(code))
    assert sorted(set(run.stdout.splitlines())) == ["a line of C code", "print"]
    # What has no end of line is shown all the same, before the cell is over and while it runs.
    assert ok(kernel.execute("pieces(1, 'no end')")).stdout == "no end"
    run = kernel.submit("pieces(1, 'Password: '); input()")
    kernel.wait_for_output(run, "Password: ")
    kernel.wait_for(lambda: run.prompts, "the prompt")
    kernel.client.input("x")
    ok(kernel.wait(run))


def test_c_code_that_keeps_the_interpreter_prints_much(site: Site, kernel: Kernel) -> None:
    if not site.in_child:
        pytest.skip("descriptors 1 and 2 are the app's")
    code = "import ctypes\nc = ctypes.PyDLL(None)\nc.printf(b'1' * 300_000); c.fflush(None);"
    assert ok(kernel.execute(code)).stdout == "1" * 300_000


def test_wurlitzer_is_told_another_descriptor(site: Site, kernel: Kernel) -> None:
    if not site.in_child:
        pytest.skip("descriptors 1 and 2 are the app's")
    code = """
import os, sys, types
stand_in = types.ModuleType('wurlitzer')
exec('import sys\\ndef fds(): return sys.stdout.fileno(), sys.stderr.fileno()', vars(stand_in))
out, err = stand_in.fds()
os.write(out, b'aside\\n'); os.write(err, b'err\\n')
(out != 1, err != 2, sys.stdout.fileno())
"""
    run = ok(kernel.execute(code))
    assert run.result == "(True, True, 1)"
    assert (run.stdout, run.stderr) == ("aside\n", "err\n")
