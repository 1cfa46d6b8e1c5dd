"""Where the far side runs: the Pythons of this machine, stock Flame servers and live apps, each a process of its own.

A far side has Pyro4 and serpent and nothing else of ours: no Jupyter, no flame_kernel.  The interpreters are those of
pyenv and the one that runs the tests, and where ``other_pythons`` has unpacked them the newest; the bare ones find
Pyro4 in a folder made for the run (``bare_pyro``).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import other_pythons
import psutil

HERE = Path(__file__).parents[1]
OLDEST = (3, 6)

_PROBE = """
import json, sys
def has(name):
    try:
        __import__(name)
    except Exception:
        return False
    return True
known = [has(name) for name in ("IPython", "Pyro4.utils.flame", "numpy", "jedi")]
print(json.dumps([sys.version_info[:3], *known, sys.implementation.name]))
"""


@dataclass(frozen=True)
class Python:
    """An interpreter that can be the far side."""

    path: str
    version: tuple[int, ...]
    ipython: bool
    pyro: bool  # its own site-packages have Pyro4; else it is lent ``bare_pyro``
    numpy: bool
    jedi: bool
    implementation: str = "cpython"

    @property
    def name(self) -> str:
        """For test ids: ``3.8``, ``3.11+ipython`` or ``pypy3.11``."""
        kind = "" if self.implementation == "cpython" else self.implementation
        return kind + ".".join(map(str, self.version[:2])) + ("+ipython" if self.ipython else "")

    def __str__(self) -> str:
        return self.name


def _probe(path: str, environ: dict[str, str]) -> Python | None:
    try:
        done = subprocess.run(
            [path, "-c", _PROBE], env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no working interpreter: a half-removed pyenv version, say
    version, *rest = json.loads(done.stdout)
    return Python(path, tuple(version), *rest)


def _pyenv_versions() -> Iterator[Path]:
    roots = [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv")]
    seen = set()
    for root in roots:
        if root and (versions := Path(root) / "versions").is_dir() and versions.resolve() not in seen:
            seen.add(versions.resolve())
            yield from versions.glob("*/bin/python")


@cache
def pythons() -> tuple[Python, ...]:
    """Every far-side interpreter of this machine, oldest first; the tests' own one stands last.

    One of pyenv's that is the tests' own over again (same version, IPython too) is left out: names are unique.
    """
    environ = clean_environ()
    here = _probe(sys.executable, environ)
    assert here is not None, sys.executable
    found: dict[tuple[int, ...], Python] = {}
    for path in sorted(_pyenv_versions()):
        python = _probe(str(path), environ)
        if python and python.version >= OLDEST and python.name != here.name:
            found[python.version[:2]] = python
    return (*(found[version] for version in sorted(found)), here)


@cache
def every_python() -> tuple[Python, ...]:
    """``pythons()``, and the newest ones of ``other_pythons``, which have no pip: for ``each_python``."""
    known = {python.name for python in pythons()}
    newer = [python for python in _unpacked() if python.implementation == "cpython" and python.name not in known]
    return (*pythons()[:-1], *newer, pythons()[-1])


@cache
def _unpacked() -> tuple[Python, ...]:
    return tuple(filter(None, (_probe(str(path), clean_environ()) for path in other_pythons.found())))


def clean_environ() -> dict[str, str]:
    """Our environment without what steers Python, Pyro, Flame or a notebook's display."""
    unwanted = ("PYTHON", "PYRO", "FLAME_KEY", "FLAME_TARGET", "FLAME_PLACE", "FLAME_SESSION", "MPLBACKEND", "IPYTHON")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted) and name not in ("VIRTUAL_ENV", "COLUMNS", "LINES")
    }


@cache
def pypy() -> Python | None:
    """PyPy, where ``other_pythons`` has unpacked it. It is a far side of its own: it cannot do all that CPython can."""
    return next((python for python in _unpacked() if python.implementation == "pypy"), None)


def of_32_bits() -> Python | None:
    """The Python of 32 bits that ``other_pythons`` has unpacked."""
    path = other_pythons.of_32_bits()
    return None if path is None else _probe(str(path), clean_environ())


@cache
def bare_pyro() -> str:
    """A folder with Pyro4 and serpent only: what a bare interpreter is given as PYTHONPATH.

    Kept for later runs under its versions, in the user's cache; private, because servers import from it.
    """
    import importlib.metadata as metadata

    label = "-".join(f"{name}-{metadata.version(name)}" for name in ("Pyro4", "serpent"))
    cache_root = Path.home() / ".cache" / "remote-flame-tests"
    cache_root.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = cache_root / label
    if not folder.is_dir():
        making = Path(tempfile.mkdtemp(dir=cache_root, prefix=label))
        for name in ("Pyro4", "serpent"):
            for file in metadata.files(name) or ():
                if file.suffix == ".py" and ".." not in file.parts:
                    (making / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(str(file.locate()), making / file)
        try:
            making.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(making)
    assert folder.stat().st_uid == os.getuid()
    assert folder.stat().st_mode & 0o077 == 0, f"{folder} must be private"
    return str(folder)


def wait_until(true: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """What ``true`` returns as soon as that is true; AssertionError naming ``what`` when it is not in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


class FarProcess:
    """A process of the far side; its stdout and stderr go to files, so nothing here has to read them."""

    location: str
    key: str | None

    def __init__(
        self,
        arguments: list[str],
        python: Python,
        environ: dict[str, str | None],
        stdin: int,
        within: tuple[str, ...] = (),
    ) -> None:
        self.python = python
        self.folder = Path(tempfile.mkdtemp(prefix="far-"))
        self.cwd = self.folder / "cwd"
        self.cwd.mkdir()
        env: dict[str, str | None] = {**clean_environ(), "PYTHONUNBUFFERED": "1", "PYRO_FLAME_ENABLED": "true"}
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # the cache folder is shared by every version
        if not python.pyro:
            env["PYTHONPATH"] = bare_pyro()
        env |= environ
        with open(self.folder / "stdout", "wb") as stdout, open(self.folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [*within, python.path, *arguments],
                env={name: value for name, value in env.items() if value is not None},
                cwd=self.cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )

    def environ(self) -> dict[str, str]:
        """What a kernel's environment needs to be at home here: the location, and the key in a private file."""
        found = {"FLAME_TARGET": self.location}
        if self.key:
            path = self.folder / "key"
            path.touch(mode=0o600)
            path.write_text(self.key)
            found["FLAME_KEY_FILE"] = str(path)
        return found

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stdout_text(self) -> str:
        """All that the process itself has written to its stdout so far."""
        return (self.folder / "stdout").read_text("utf-8", "replace")

    def stderr_text(self) -> str:
        """All that the process itself has written to its stderr so far."""
        return (self.folder / "stderr").read_text("utf-8", "replace")

    def children(self) -> list[psutil.Process]:
        """Its living descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def thread_count(self) -> int:
        """The native threads of the process."""
        return psutil.Process(self.pid).num_threads()

    def _wait_for_line(self, start: str) -> str:
        def line() -> str | None:
            text = self.stdout_text()
            if not self.alive:
                raise AssertionError(f"the far side ended with {self.process.returncode}:\n{text}{self.stderr_text()}")
            lines = [line for line in text.splitlines(keepends=True) if line.startswith(start) and line.endswith("\n")]
            return lines[0][len(start) :].strip() if lines else None

        try:
            return str(wait_until(line, f"a line {start!r} from the far side", 30))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, hard if need be, and remove its folder; may be called twice."""
        if self.alive:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait(10)


def _location(uri: str) -> str:
    return uri.partition("@")[2]


class FlameServer(FarProcess):
    """A stock ``python -m Pyro4.utils.flameserver``, in an empty folder.

    ``location`` is ``host:port`` or ``./u:path``; ``key`` the HMAC key as text, or None; ``within`` a command that
    starts it somewhere else (``netns.Net.within``), which must become the server itself.
    """

    def __init__(
        self,
        python: Python,
        *,
        key: str | None = None,
        servertype: str = "thread",
        unix: bool = False,
        env: dict[str, str | None] | None = None,
        arguments: tuple[str, ...] = (),
        within: tuple[str, ...] = (),
    ) -> None:
        self.key = key
        self.socket_folder = tempfile.mkdtemp(prefix="u-") if unix else None
        where = ["-u", os.path.join(self.socket_folder, "s")] if self.socket_folder else ["-p", "0"]
        super().__init__(
            ["-m", "Pyro4.utils.flameserver", *where, *arguments],
            python,
            {"PYRO_SERVERTYPE": servertype, "PYRO_HMAC_KEY": key, **(env or {})},
            subprocess.DEVNULL,
            within,
        )
        self.location = _location(self._wait_for_line("server uri: "))

    def stop(self) -> None:
        super().stop()
        if self.socket_folder:
            shutil.rmtree(self.socket_folder, ignore_errors=True)


class LiveApp(FarProcess):
    """An app of our own with a Flame server in one of its threads (``apps/live_app.py``), for cells inside a process.

    It is asked on its stdin, by its main thread: ``say``, ``state`` and the rest are methods here.
    """

    def __init__(
        self,
        python: Python,
        *,
        key: str | None = None,
        servertype: str = "thread",
        env: dict[str, str | None] | None = None,
        app: Path = HERE / "apps" / "live_app.py",
    ) -> None:
        self.key = key
        self._asked = 0
        super().__init__(
            [str(app)], python, {"PYRO_SERVERTYPE": servertype, "APP_KEY": key, **(env or {})}, subprocess.PIPE
        )
        self.location = _location(self._wait_for_line("app uri: "))

    def ask(self, command: str, *arguments: Any) -> Any:
        """Have the app's main thread carry out ``command``; its answer."""
        assert self.process.stdin is not None
        self._asked += 1
        request = json.dumps([self._asked, command, *arguments])
        self.process.stdin.write(request.encode("ascii") + b"\n")
        self.process.stdin.flush()
        return json.loads(self._wait_for_line(f"answer {self._asked}: "))

    def say(self, text: str) -> None:
        """The app prints ``text`` from its main thread."""
        self.ask("say", text)

    def say_in_thread(self, text: str) -> None:
        """The app prints ``text`` from a worker thread of its own."""
        self.ask("say_in_thread", text)

    def state(self) -> dict[str, Any]:
        """How the app finds its own process: see ``state`` in ``apps/live_app.py``."""
        return dict(self.ask("state"))


class NameServer(FarProcess):
    """A stock ``pyro4-ns``; ``location`` is where it listens, ``uri`` what Pyro calls it."""

    def __init__(
        self, key: str | None = None, host: str = "127.0.0.1", within: tuple[str, ...] = (), **env: str
    ) -> None:
        self.key = key
        arguments = ["-m", "Pyro4.naming", "-p", "0", "-n", host]
        super().__init__(arguments, pythons()[-1], {"PYRO_HMAC_KEY": key, **env}, subprocess.DEVNULL, within)
        self.uri = self._wait_for_line("URI = ")
        self.location = self.uri.partition("@")[2]

    def register(self, **names: str) -> None:
        """Write down URIs under names, as any Pyro program does."""
        import Pyro4

        with Pyro4.Proxy(self.uri) as proxy:
            proxy._pyroHmacKey = self.key.encode() if self.key else None
            for name, uri in names.items():
                proxy.register(name, uri)


@contextlib.contextmanager
def stopped(process: Any) -> Iterator[Any]:
    try:
        yield process
    finally:
        process.stop()


def random_key() -> str:
    """An HMAC key as text, for one server."""
    return secrets.token_hex(16)
