"""``jupyter flame ignite``: into running processes of every Python, with Pyro4 and without, and out again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import Python, clean_environ, pythons, wait_until
from kernels import remote_flame
from needs import missing
from plain_app import KEY, PlainApp, bare

import flame
from flame_kernel.serve import ignite
from flame_kernel.serve.ignite import IgniteError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ignite is for Linux")


@pytest.fixture
def plain() -> Iterator[Callable[..., PlainApp]]:
    started: list[PlainApp] = []

    def start(python: Python | None = None, *threads: str, pyro: bool = False) -> PlainApp:
        started.append(PlainApp(python or bare(), *(threads or ("app worker", "app waiter")), pyro=pyro))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_in_and_out_again(each_python: Python, plain: Callable[..., PlainApp]) -> None:
    in_and_out(plain, each_python, pyro=False)


@pytest.mark.parametrize("which", [0, -2], ids=["oldest", "newest"])
def test_in_and_out_where_pyro_is_installed(plain: Callable[..., PlainApp], which: int) -> None:
    in_and_out(plain, pythons()[which] if len(pythons()) > 1 else pythons()[0], pyro=True)


def in_and_out(plain: Callable[..., PlainApp], each_python: Python, pyro: bool) -> None:
    app = plain(each_python, pyro=pyro)
    before = app.ask("state()")
    fire = ignite.ignite(app.pid, KEY)
    assert fire.brought == (not pyro and not each_python.pyro)
    assert (fire.program, fire.python) == ("plain_app.py", ".".join(map(str, each_python.version)))
    with flame.connect(f"127.0.0.1:{fire.port}", key=KEY, shell="mini") as inside:
        count = inside.evaluate("__import__('__main__').counter")
        inside.execute("import __main__, threading; __main__.added = 7; print('for the notebook')")
        wait_until(lambda: inside.evaluate("__import__('__main__').counter") > count, "the app's own thread")
        with pytest.raises(IgniteError, match=rf"is ignited already, at 127.0.0.1:{fire.port}"):
            ignite.ignite(app.pid, KEY)
        assert app.ask("added") == 7
    assert ignite.extinguish(app.pid) == []
    before["main"] = sorted([*before["main"], "added"])
    with contextlib.suppress(AssertionError):  # the thread that was ignited ends a moment later
        wait_until(lambda: app.ask("state()") == before, "all as before")
    assert app.ask("state()") == before
    assert not app.stderr_text()
    assert set(app.stdout_text().splitlines()[1:]) == {
        line for line in app.stdout_text().splitlines() if "answer" in line
    }
    again = ignite.ignite(app.pid, KEY)
    assert ignite.extinguish(app.pid) == []
    assert again.brought == fire.brought


def test_a_notebook_in_it_by_the_commands(
    plain: Callable[..., PlainApp], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    app = plain()
    code, said, wrong = command("ignite", str(app.pid), "--as", "worker")
    assert (code, wrong) == (0, "")
    assert f"Flame is open in process {app.pid}" in said
    assert "    %flame connect worker\n" in said
    key_file = tmp_path / "run" / f"flame-ignited-{app.pid}.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = key_file.read_text().strip()
    assert key not in said
    assert (
        key.encode()
        not in app.ask("repr(open('/proc/self/cmdline').read() + open('/proc/self/environ').read())").encode()
    )
    with remote_flame({"JUPYTER_CONFIG_DIR": str(tmp_path / "config")}) as k:
        run = k.execute("%flame connect worker")
        assert "inside the server's own process" in run.stdout, run
        assert k.execute("import os, __main__; os.getpid()").result == str(app.pid)
        running = k.submit("print('go')\nimport time\nwhile True: time.sleep(0.01)")
        k.wait_for_output(running, "go")
        assert command("extinguish", str(app.pid)) == (0, f"Flame is out of process {app.pid}.\n", "")
        k.wait(running)
        assert running.error is not None
    assert not list((tmp_path / "run").glob("flame-ignited*"))
    assert "worker" not in (tmp_path / "config" / "targets.toml").read_text()
    assert app.ask("state()")["threads"] == ["MainThread", "app waiter", "app worker"]


def command(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "flame_kernel.cli.__main__", *words], capture_output=True, text=True, timeout=50
    )
    return done.returncode, done.stdout, done.stderr


def test_a_main_thread_that_computes(plain: Callable[..., PlainApp]) -> None:
    """Another one is stopped, which sleeps: one that computes may be where it must not be stopped."""
    app = plain()
    app.send("sum(i for i in range(10**8))")
    fire = ignite.ignite(app.pid, KEY)
    with flame.connect(f"127.0.0.1:{fire.port}", key=KEY, shell="mini") as inside:
        assert inside.evaluate("6 * 7") == 42
    assert ignite.extinguish(app.pid) == []


def test_a_process_that_does_nothing_but_compute(plain: Callable[..., PlainApp]) -> None:
    app = plain(None, "no thread")
    app.send("compute()")
    assert "computes in all of its threads, and cannot be stopped safely; try again, or add --force" in refused(app.pid)
    fire = ignite.ignite(app.pid, KEY, force=True)  # it does not ask for memory
    with flame.connect(f"127.0.0.1:{fire.port}", key=KEY, shell="mini") as inside:
        inside.execute("import threading, ctypes; main = threading.main_thread().ident")
        assert inside.evaluate(
            "ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(EOFError))"
        )
    assert app.answer() == "woken"


@pytest.mark.parametrize("by", ["its main thread", "another thread"])
def test_a_process_that_holds_its_interpreter(plain: Callable[..., PlainApp], by: str, tmp_path: Path) -> None:
    """The wait is bounded, it is left as it was, and nothing that is secret is to be seen of the helper meanwhile."""
    app = plain()
    fifo = tmp_path / "hold"
    os.mkfifo(fifo)
    holding = f"hold({str(fifo)!r})"
    app.send(holding if by == "its main thread" else f"threading.Thread(target=lambda: {holding}).start()")
    with fifo.open("wb"):  # opened when the app holds, until it is closed
        with pytest.raises(IgniteError, match="did not respond in time: it holds its interpreter") as stuck:
            ignite.ignite(app.pid, KEY, 0.5)
        if by == "another thread":  # else the lines are in, and wait there
            helper = psutil.Process(int(str(stuck.value).partition("helper process ")[2].split()[0]))
            assert KEY not in repr((helper.cmdline(), helper.environ(), psutil.Process(app.pid).cmdline()))
            libraries = list(Path(tempfile.gettempdir()).glob("hypno*.so"))
            assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in libraries)
            assert libraries
    wait_until(lambda: app.ask("1"), "that it lets go", 30)
    wait_until(lambda: app.ask("state()")["threads"] == ["MainThread", "app waiter", "app worker"], "threads as before")
    assert app.ask("state()")["modules"] == []
    ignite.ignite(app.pid, KEY)
    assert ignite.extinguish(app.pid) == []


# -- what cannot be ----------------------------------------------------------------------------------------------------


def refused(pid: int) -> str:
    with pytest.raises(IgniteError) as error:
        ignite.ignite(pid, KEY, 8.0)
    assert str(error.value).count(". ") == 0  # one sentence
    return str(error.value)


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **options: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(words, env=clean_environ(), cwd="/", **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def test_what_is_no_process(process: Callable[..., subprocess.Popen[bytes]]) -> None:
    assert "there is no process 4194999" in refused(4194999)
    assert "there is no process -1" in refused(-1)
    ended = process("true")
    wait_until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE, "its end")
    assert f"process {ended.pid} has ended" in refused(ended.pid)


def test_what_is_no_python(process: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """It would die of what hypno does."""
    other = process("sleep", "100")
    wait_until(lambda: psutil.Process(other.pid).name() == "sleep", "sleep")
    assert "is not a CPython" in refused(other.pid)
    shutil.copy(shutil.which("sleep") or "sleep", tmp_path / "python3")
    named = process(str(tmp_path / "python3"), "100")
    wait_until(lambda: psutil.Process(named.pid).name() == "python3", "python3")
    assert "does not export its functions (static, or stripped)" in refused(named.pid)
    assert other.poll() is None
    assert named.poll() is None


def test_another_architecture(process: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """A program of 32 bits: ``pause`` for ever."""
    code = bytes.fromhex("b81d000000cd80ebf7")
    size = 52 + 32 + len(code)
    head = (
        b"\x7fELF\x01\x01\x01"
        + bytes(9)
        + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    )
    part = struct.pack("<IIIIIIII", 1, 0, 0x8048000, 0x8048000, size, size, 5, 4096)
    path = tmp_path / "old"
    path.write_bytes(head + part + code)
    path.chmod(0o700)
    try:
        old = process(str(path))
    except OSError:
        missing("a system that runs programs of 32 bits")
    wait_until(lambda: old.poll() is not None or psutil.Process(old.pid).exe() == str(path), "that it runs")
    if old.poll() is not None:
        missing("a system that runs programs of 32 bits")
    assert "is of another architecture" in refused(old.pid)


def test_states_in_which_it_cannot_be_asked(plain: Callable[..., PlainApp]) -> None:
    app = plain()
    os.kill(app.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(app.pid).status() == psutil.STATUS_STOPPED, "that it is stopped")
    assert f"process {app.pid} is stopped; let it go on first: kill -CONT {app.pid}" in refused(app.pid)
    os.kill(app.pid, signal.SIGCONT)
    threads = [thread.id for thread in psutil.Process(app.pid).threads() if thread.id != app.pid]
    assert f"is a thread of process {app.pid}" in refused(threads[0])
    with pytest.raises(IgniteError, match=f"process {app.pid} is not ignited"):
        ignite.extinguish(app.pid)
    assert app.ask("state()")["threads"] == ["MainThread", "app waiter", "app worker"]


def test_a_process_of_somebody_else(process: Callable[..., subprocess.Popen[bytes]]) -> None:
    if os.geteuid() != 0:
        missing("root, to have a process of somebody else")
    other = process("sleep", "100", user=65534)
    assert f"process {other.pid} belongs to nobody; run this as that user" in refused(other.pid)


def test_a_system_that_does_not_permit_it(process: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A user who may not look into a process of his own: it is one that has changed its user."""
    if os.geteuid() != 0:
        missing("root, to give a right away")
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    waits = "import time; print('go', flush=True); time.sleep(99)"
    other = process(sys.executable, "-c", become + waits, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"go\n"
    other.stdout.close()
    asks = f"try: ignite.ignite({other.pid}, 'k')\nexcept ignite.IgniteError as e: print(e)"
    script = "from flame_kernel.serve import ignite\n" + become + asks
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"not allowed to attach to process {other.pid}" in done.stdout


# Has the system refuse, to this process and all that it starts, what goes into another process: ptrace, and its memory.
REFUSE = """
import ctypes, platform, struct
numbers = {"x86_64": (101, 310, 311), "aarch64": (117, 270, 271)}[platform.machine()]
steps = [(0x20, 0, 0, 0)] + [(0x15, len(numbers) - i, 0, n) for i, n in enumerate(numbers)]
steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]  # allow; EPERM
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("", "a container needs the capability SYS_PTRACE"),
        ("0", "a container needs the capability SYS_PTRACE"),
        ("1", "(kernel.yama.ptrace_scope is 1; as root: sysctl kernel.yama.ptrace_scope=0)"),
        ("2", "(kernel.yama.ptrace_scope is 2; as root: sysctl kernel.yama.ptrace_scope=0)"),
        ("3", "(kernel.yama.ptrace_scope is 3; it cannot be changed without a restart)"),
    ],
)
def test_a_system_that_refuses_ptrace(plain: Callable[..., PlainApp], tmp_path: Path, scope: str, said: str) -> None:
    """The process may be looked at, and not be touched, as with Yama; its setting is that of a file."""
    app = plain()
    (tmp_path / "scope").write_text(f"{scope}\n")
    script = (
        f"{REFUSE}from pathlib import Path\nfrom flame_kernel.serve import ignite, other_process\n"
        f"other_process._PTRACE_SCOPE = Path({str(tmp_path / 'scope')!r})\n"
        f"try: ignite.ignite({app.pid}, 'k')\nexcept ignite.IgniteError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"not allowed to attach to process {app.pid}")
    assert done.stdout.endswith(f"{said}\n")
    assert app.ask("1") == 1


def test_without_hypno(plain: Callable[..., PlainApp]) -> None:
    app = plain()
    script = (
        "import sys; sys.modules['hypno'] = None; from flame_kernel.serve import ignite\n"
        f"try: ignite.ignite({app.pid}, 'k')\nexcept ignite.IgniteError as e: print(e)"
    )
    if hasattr(sys, "remote_exec"):
        pytest.skip("this Python does without")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("this needs hypno: pip install ")
    assert "[ignite]" in done.stdout
