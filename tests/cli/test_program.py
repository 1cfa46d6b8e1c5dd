"""``jupyter flame run script.py`` beside ``python script.py``: what comes out, byte for byte, and the exit status."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
from farside import FlameServer, LiveApp
from shell import COMMAND

WARM = ()
pytestmark = pytest.mark.usefixtures("warm_commands")

KEY = farside.random_key()
PYTHONS = [farside.pythons()[0], farside.pythons()[-1]]
BYTES = bytes(range(256)) * 20


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda one: one.name)
def server(request: pytest.FixtureRequest) -> Iterator[FlameServer]:
    far = FlameServer(request.param, key=KEY)
    yield far
    far.stop()


def run(where: str, key: Path | None, *words: object, **how: Any) -> subprocess.CompletedProcess[bytes]:
    options = ["-t", where, *(["--key-file", str(key)] if key else [])]
    return subprocess.run(
        [COMMAND, *str(words[0]).split(), *options, *map(str, words[1:])], capture_output=True, timeout=60, **how
    )


THREAD = "import threading, time\n"
LOOP = "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print('ran')\n    return 3\n"
SCRIPTS = {
    "stdin-buffer": ("import sys; print(len(sys.stdin.buffer.read()))", BYTES),
    "stdin-copied": ("import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)", BYTES * 400),
    "stdin-lines": ("import sys\nfor line in sys.stdin: print(repr(line))", b"one\ntwo\r\n\nlast"),
    "stdin-words": (
        "import sys; print([sys.stdin.read(3), sys.stdin.readline(), sys.stdin.readlines()])",
        b"one two\nx\ny",
    ),
    "stdin-input": ("print(input('a? ') + input())\ntry: input('more? ')\nexcept EOFError: print('end')", b"1\n2\n"),
    "stdin-traceback": (
        "import traceback\ntry: input()\nexcept EOFError: print(traceback.format_exc().count('File '))\n"
        "class C: ask = input\ntry: C().ask('a? ')\nexcept EOFError: print(input.__name__, callable(input))",
        b"",
    ),
    "stdin-descriptor": ("import os, sys; print(os.read(0, 3), sys.stdin.fileno(), open(0, 'rb').read())", b"abcdef"),
    "stdin-of-a-child": ("import subprocess; subprocess.run(['wc', '-c'])", b"x" * 100_000),
    "stdin-empty": ("import sys; print(repr(sys.stdin.read()))", b""),
    "stdin-select": ("import select, sys; print(select.select([sys.stdin], [], [], 10)[0] == [sys.stdin])", b"x"),
    "stdin-not-read": ("print('done')", b"x" * 3_000_000),
    "stdin-forked": (
        "import os, sys\nif os.fork() == 0:\n    print(len(sys.stdin.read()), flush=True)\n    os._exit(0)\nos.wait()",
        b"x" * 200_000,
    ),
    "forked-exit": (
        "import os, sys\nfor code in (0, 3, 'text'):\n    if os.fork() == 0: sys.exit(code)\n"
        "    print(os.wait()[1] >> 8, flush=True)\nif os.fork() == 0: 1 / 0\nprint(os.wait()[1] >> 8, flush=True)",
        b"",
    ),
    "bytes": ("import sys; sys.stdout.buffer.write(bytes(range(256)))", b""),
    "bytes-of-a-child": ("import subprocess; subprocess.run(['printf', r'\\377\\200\\303'])", b""),
    "bytes-in-turns": (
        "import os, subprocess, sys\nprint('a', flush=True)\nsubprocess.run(['printf', r'\\377'])\n"
        "os.write(1, b'\\xe4\\n')\nsys.stdout.buffer.write(b'\\xf6')\nsys.stdout.flush()\nprint('\\u20ac')",
        b"",
    ),
    "much": ("for n in range(200000): print(n)", b""),
    "reconfigured": ("import sys; sys.stdout.reconfigure(line_buffering=True); print(sys.stdout.encoding)", b""),
    "names": ("import sys; print(__name__, __doc__, sys.argv, 'get_ipython' in globals(), 'In' in dir())", b""),
    "main": ("import __main__, pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is __main__.C)", b""),
    "thread": (
        THREAD + "def late():\n    time.sleep(0.3)\n    print('late')\nthreading.Thread(target=late).start()",
        b"",
    ),
    "thread-of-thread": (
        THREAD + "def two():\n    time.sleep(0.2)\n    print('two')\n"
        "def one():\n    time.sleep(0.1)\n    threading.Timer(0.1, two).start()\nthreading.Thread(target=one).start()",
        b"",
    ),
    "daemon": (THREAD + "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\nprint('x')", b""),
    "thread-fails": (THREAD + "threading.Thread(target=lambda: 1 / 0).start()", b""),
    "pool": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n"
        "print(pool.submit(pow, 2, 5).result())\npool.submit(print, 'there')",
        b"",
    ),
    "processes": (
        "import multiprocessing\ndef f(x): return x * x\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(f, range(5)))",
        b"",
    ),
    "process-prints": (
        "import multiprocessing\np = multiprocessing.get_context('fork').Process(target=print, args=('there',))\n"
        "p.start(); p.join(); print(p.exitcode)",
        b"",
    ),
    "atexit": ("import atexit\natexit.register(print, 'one')\natexit.register(print, 'two')\nprint('x')", b""),
    "atexit-after-exit": ("import atexit, sys\natexit.register(print, 'bye')\nsys.exit(4)", b""),
    "atexit-fails": ("import atexit\natexit.register(print, 'after')\natexit.register(lambda: 1 / 0)", b""),
    "asyncio": (LOOP + "print(asyncio.get_event_loop().run_until_complete(main()))", b""),
    "asyncio-new": (
        LOOP + "loop = asyncio.new_event_loop()\nprint(loop.run_until_complete(main()))\nloop.close()",
        b"",
    ),
    "freed": (
        "class Ends:\n    def __init__(self, n): self.n = n\n    def __del__(self): print('freed', self.n, made)\n"
        "made = []\none, more = Ends(1), [Ends(2)]\nmade.append(1)\n"
        "def steps():\n    try: yield 1\n    finally: print('closed')\nat = steps()\nnext(at)",
        b"",
    ),
    "alone": (
        "import threading\nprint(threading.active_count(), [t.name for t in threading.enumerate()], __annotations__)",
        b"",
    ),
    "exit-3": ("import sys; sys.exit(3)", b""),
    "exit-300": ("import sys; sys.exit(300)", b""),
    "exit-minus": ("import sys; sys.exit(-1)", b""),
    "exit-text": ("import sys; sys.exit('bad')", b""),
    "exit-float": ("import sys; sys.exit(2.5)", b""),
    "exit-quit": ("exit(5)", b""),
    "exit-in-thread": (THREAD + "threading.Thread(target=exit, args=(5,)).start()", b""),
    "exit-os": ("import os; print('x', flush=True); os._exit(4)", b""),
    "exit-os-0": ("import os; print('x', flush=True); os._exit(0)", b""),
    "fails": ("def f():\n    raise KeyError('no')\nf()", b""),
    "fails-hook": ("import sys\nsys.excepthook = lambda *e: print('hook', e[0].__name__)\n1 / 0", b""),
    "fails-syntax": ("def (", b""),
    "fails-at-the-end-of-stdin": ("def f(): return input()\nf()", b""),
    "interrupts-itself": (
        "import os, signal, threading, time\nthreading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "time.sleep(20)",
        b"",
    ),
    "killed": ("import os; print('x', flush=True); os.kill(os.getpid(), 9)", b""),
    "terminated": ("import os, signal; print('x', flush=True); os.kill(os.getpid(), signal.SIGTERM)", b""),
    "handled": (
        "import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(7))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()",
        b"",
    ),
    "aborted": ("import os; os.abort()", b""),
    "stdout-closed": ("import sys\nprint('x')\nsys.stdout.close()", b""),
    "stdout-replaced": (
        "import io, sys\nsys.stdout = io.StringIO()\nprint('lost')\nsys.__stdout__.write('kept\\n')",
        b"",
    ),
    "display": ("import sys; sys.displayhook(5)", b""),
    "globals": (
        "loader = __loader__\ndel __loader__\n"
        "print({one: type(globals()[one]).__name__ for one in sorted(globals()) if one != 'loader'}, __spec__)\n"
        "print(loader.get_source('__main__').count('loader'), loader.get_data(__file__)[:5], loader.name)\n"
        "print([kind.__name__ for kind in type(loader).__mro__].count('SourceFileLoader'))",
        b"",
    ),
    "bom": (b"\xef\xbb\xbfprint('\xc3\xa4')\r\nprint(2)\r\n", b""),
    "latin": (b"# -*- coding: latin-1 -*-\nprint('\xe4')\n", b""),
}
# What is tried in the oldest Python too; the others are the same there.
EVERYWHERE = ("stdin-lines", "stdin-copied", "bytes-in-turns", "thread", "pool", "processes", "atexit", "asyncio")
EVERYWHERE += ("freed", "exit-os", "exit-text", "fails", "killed", "latin")
# Those of newer Pythons.
NEWER = {"asyncio-run": (LOOP + "print(asyncio.run(main()))\nprint(asyncio.run(main()))", b"")}


@pytest.mark.parametrize("name", [*SCRIPTS, *NEWER])
def test_a_script_is_as_here(name: str, server: FlameServer, key: Path, tmp_path: Path) -> None:
    if server.python is PYTHONS[0] and name not in EVERYWHERE:
        return
    source, stdin = (SCRIPTS | NEWER)[name]
    (tmp_path / "script.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    env = {**farside.clean_environ(), "PYTHONIOENCODING": "utf-8:surrogateescape", "LC_ALL": "C.UTF-8"}
    words = [server.python.path, "script.py", "-x", "a b"]
    want = subprocess.run(words, cwd=tmp_path, input=stdin, capture_output=True, timeout=60, env=env)
    got = run(server.location, key, "run", "script.py", "-x", "a b", cwd=tmp_path, input=stdin)
    status = 128 - want.returncode if want.returncode < 0 else want.returncode
    assert (got.returncode, got.stdout) == (status, want.stdout), got.stderr
    assert b"flame" not in got.stderr
    if want.returncode >= 0 and name not in ("atexit-fails", "thread-fails"):  # which Pythons word differently
        assert got.stderr.splitlines()[-1:] == want.stderr.splitlines()[-1:]


def test_the_debugger_shows_its_lines(server: FlameServer, key: Path, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import pdb\npdb.set_trace()\nx = 5  # the line\nprint(x)\n")
    done = run(server.location, key, "run", "s.py", cwd=tmp_path, input=b"l\nb 4\nc\nc\n")
    assert b"-> x = 5  # the line" in done.stdout or b"-> pdb.set_trace()" in done.stdout  # the latter from 3.13 on
    assert b"  4  \tprint(x)\n" in done.stdout
    assert b"Breakpoint 1 at " in done.stdout
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, b"(Pdb) 5", b"")


def test_a_script_on_stdin(server: FlameServer, key: Path) -> None:
    source = b"import sys\nprint(sys.argv, __name__, __file__)\n1 / 0\n"
    done = run(server.location, key, "run", "-", "-x", "a b", input=source)
    assert (done.returncode, done.stdout) == (1, b"['-', '-x', 'a b'] __main__ <stdin>\n")
    assert b'File "<stdin>", line 3, in <module>\n    1 / 0\n' in done.stderr


def test_one_output_keeps_its_order(server: FlameServer, key: Path, tmp_path: Path) -> None:
    source = "import os, sys\nfor n in range(50):\n    print('out', n)\n    print('err', n, file=sys.stderr)\n"
    source += "    os.write(2 - n % 2, b'%d\\n' % n)\n"
    (tmp_path / "s.py").write_text(source)
    words = [COMMAND, "run", "-t", server.location, "--key-file", str(key), "s.py"]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.stdout == "".join(f"out {n}\nerr {n}\n{n}\n" for n in range(50))


def test_nobody_reads_its_output(server: FlameServer, key: Path, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import itertools\nfor n in itertools.count(): print(n)")
    line = f"{COMMAND} run -t {server.location} --key-file {key} s.py | head -n 2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"0\n1\n141\n", b"")


def test_stdin_is_fast(server: FlameServer, key: Path, tmp_path: Path) -> None:
    """5,000 lines in well under a second, beside what an empty stdin costs."""
    (tmp_path / "s.py").write_text("import sys\nprint(sum(1 for _ in sys.stdin))")
    took = []
    for stdin in (b"", b"a line of text\n" * 5000):
        began = time.monotonic()
        assert run(server.location, key, "run", tmp_path / "s.py", input=stdin).stdout == b"%d\n" % stdin.count(b"\n")
        took.append(time.monotonic() - began)
    assert took[1] - took[0] < 5


def test_a_stdin_without_end_ends_with_the_script(server: FlameServer, key: Path, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("print(input())")
    line = f"yes | {COMMAND} run -t {server.location} --key-file {key} s.py"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n", b"")


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [(">&-", 0, b""), ("2>&-", 0, b""), ("<&-", 0, b""), (">/dev/full", 1, b"No space left"), (">&- 2>&- <&-", 0, b"")],
)
def test_streams_that_are_none(
    redirection: str, status: int, said: bytes, server: FlameServer, key: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.py").write_text("import sys; sys.stdin.read(); print('x'); print('y', file=sys.stderr)")
    line = f"{COMMAND} run -t {server.location} --key-file {key} s.py {redirection}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, b"Traceback" in done.stderr, said in done.stderr) == (status, False, True), done.stderr


def test_another_encoding(server: FlameServer, key: Path, tmp_path: Path) -> None:
    """What comes is passed on as it is; words of ours that the encoding lacks are no reason to fail."""
    (tmp_path / "s.py").write_text("print('\\u20ac')\n1/0  # \\u20ac")
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = run(server.location, key, "run", "s.py", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (1, "€\n".encode())
    assert b"flame" not in done.stderr
    done = run(server.location, key, "exec", "raise ValueError('\\u20ac')", env=env)
    assert (done.returncode, b"ValueError" in done.stderr, b"flame" in done.stderr) == (1, True, False)


def test_bytes_of_a_server_that_is_not_authenticated(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import sys; sys.stdout.buffer.write(b'a\\xffb\\n')")
    far = FlameServer(PYTHONS[-1])
    try:
        done = run(far.location, None, "run", tmp_path / "s.py")
    finally:
        far.stop()
    assert (done.returncode, done.stdout) == (1, "a\ufffdb\n".encode())
    assert b"output other than text is off" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        (["exec", "raise SystemExit(5)"], 5, b"", b""),
        (["exec", "print(exit, flush=True); exit(3)"], 3, b"Use exit() or Ctrl-D (i.e. EOF) to exit\n", b""),
        (["eval", "quit(4)"], 4, b"", b""),
        (["exec", "import sys; sys.exit('bad')"], 1, b"", b"bad\n"),
        (["exec", "import os; os._exit(4)"], 4, b"", b""),
        (["exec", "import sys; print(sys.stdin.buffer.read())"], 0, b"b'in\\xff'\n", b""),
        (["exec", "import sys; sys.stdout.buffer.write(b'\\xff'); None"], 0, b"\xff", b""),
        (
            ["exec", "import asyncio; asyncio.new_event_loop().run_until_complete(asyncio.sleep(0)); 6 * 7"],
            0,
            b"42\n",
            b"",
        ),
        (["exec", THREAD + "threading.Timer(0.2, print, ['late']).start()"], 0, b"late\n", b""),
        (["exec", "import atexit; atexit.register(print, 'bye'); None"], 0, b"bye\n", b""),
        (["eval", "6 * 7"], 0, b"42\n", b""),
        (["eval", "(1,\n 2)"], 0, b"(1, 2)\n", b""),
        (["eval", "1,\n2"], 0, b"(1,\n2)\n".replace(b"\n2", b" 2"), b""),
        (["eval", "__import__('os')._exit(4)"], 4, b"", b""),
        (["eval", "__import__('sys').exit(3)"], 3, b"", b""),
        (["eval", "input()"], 0, b"'in\\udcff'\n", b""),
    ],
)
def test_statements_and_expressions(
    words: list[str], status: int, out: bytes, err: bytes, server: FlameServer, key: Path
) -> None:
    done = run(server.location, key, *words, input=b"in\xff")
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


@pytest.mark.parametrize("source", ["print(input())", "x = 1\nreturn x", "'\f'\n1 / 0"])
def test_the_line_that_fails_is_shown(source: str, server: FlameServer, key: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(source)
    words = [server.python.path, "script.py"]
    want = subprocess.run(words, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    got = run(server.location, key, "run", "script.py", cwd=tmp_path, stdin=subprocess.DEVNULL)
    shown = source.splitlines()[-1].encode()
    assert (shown in want.stderr, shown in got.stderr) == (True, True)
    if server.python is PYTHONS[-1]:  # older ones mark other columns
        assert got.stderr == want.stderr.replace(os.fsencode(tmp_path) + b"/", b"")


def test_an_expression_that_fails(server: FlameServer, key: Path) -> None:
    done = run(server.location, key, "eval", "1/0")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"1/0" in done.stderr
    assert b"ZeroDivisionError" in done.stderr
    assert b"repr" not in done.stderr
    assert b"flame" not in done.stderr
    done = run(server.location, key, "eval", "x = 1")
    assert (done.returncode, done.stdout, done.stderr.count(b"SyntaxError")) == (1, b"", 1)
    done = run(server.location, key, "exec", "raise KeyboardInterrupt('by itself')")
    assert (done.returncode, b"by itself" in done.stderr) == (130, True)


def test_in_an_apps_own_process(tmp_path: Path) -> None:
    """The app's streams, threads and exit functions are its own."""
    script = (
        "import asyncio, atexit, sys, threading\natexit.register(print, 'no')\nprint(len(sys.stdin.buffer.read()))\n"
    )
    script += "sys.stdout.buffer.write(b'\\xff')\nthreading.Timer(0.2, print, ['late']).start()\n"
    script += "asyncio.new_event_loop().run_until_complete(asyncio.sleep(0))\nsys.exit(3)\n"
    (tmp_path / "s.py").write_text(script)
    app = LiveApp(PYTHONS[-1], key=KEY)
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(KEY)
    try:
        before = app.state()["changed"]
        for _ in range(2):
            done = run(app.location, path, "run", tmp_path / "s.py", input=BYTES)
            assert (done.returncode, done.stdout, done.stderr) == (3, b"%d\n\xfflate\n" % len(BYTES), b"")
        assert app.state()["changed"] == before
        assert "late" not in app.stdout_text()
    finally:
        app.stop()


def test_a_named_session_goes_on(server: FlameServer, key: Path, tmp_path: Path) -> None:
    """Its names stay, and so do its threads: nobody waits for them."""
    (tmp_path / "s.py").write_text(THREAD + "go = threading.Event()\nthreading.Thread(target=go.wait).start()\nx = 5\n")
    done = run(server.location, key, "run", "--session", "kept", tmp_path / "s.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = run(server.location, key, "eval", "--session", "kept", "(x, go.set(), __name__)")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"(5, None, '__main__')\n", b"")
    assert run(server.location, key, "sessions kill", "kept", "-y").returncode == 0
