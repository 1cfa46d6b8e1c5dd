"""What every test has: far sides to talk to, and a look round afterwards that nothing was left behind.

In CI (``CI=true``) nothing is skipped for want of a browser, an old Python or a library: it fails.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import leaks
import pytest
import zmq
from farside import FlameServer, LiveApp, Python
from needs import CI, missing


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported that looks at the environment: a folder for temporary files, and the run's mark."""
    # pytest's own tmp_path stays where people look for it after a failure.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ[leaks.RUN_MARK] = secrets.token_hex(8)
    run_folder = Path(tempfile.mkdtemp(prefix="flame-"))  # short: the paths of unix sockets end after 107 bytes
    config.add_cleanup(lambda: shutil.rmtree(run_folder, ignore_errors=True))
    # The user's own Jupyter, IPython and targets are none of the tests' business.
    # Nor is their cache: jedi's, once a process was killed while it wrote there, answers nothing any more.
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
        os.environ[name] = _private(run_folder / name.lower())
    # Here every file counts: what stands after a test and did not before is a leak.
    os.environ["TMPDIR"] = tempfile.tempdir = _private(run_folder / "t")
    os.environ["JUPYTER_RUNTIME_DIR"] = _private(run_folder / "t" / "runtime")
    for name in list(os.environ):
        if name.startswith(("FLAME_", "PYRO_")):
            del os.environ[name]
    os.environ["FLAME_SPARE"] = "0"  # it would cost each server of a test a process; ``test_spare`` has it
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # ipykernel's debugger writes to stderr without it


# The quick ring: a look into every room, a real kernel, the library and the magics on stock servers.
QUICK = {
    *("test_layers", "test_map", "test_papers", "test_excepts", "test_complexity", "test_places", "test_language"),
    *("test_config", "test_rendering", "test_inbox", "test_publisher"),
    *("test_agent_events", "test_waits", "test_kernel_cells", "test_library", "test_magics"),
}


def _private(folder: Path) -> str:
    folder.mkdir(mode=0o700)
    return str(folder)


@pytest.fixture(scope="session", autouse=True)
def global_state() -> Iterator[None]:
    """Make what libraries make once in a process, so that it counts for no test; and look round after the last one."""
    from jupyter_core.utils import ensure_event_loop

    context = zmq.Context.instance()
    with context.socket(zmq.PAIR) as sender, context.socket(zmq.PAIR) as receiver:  # starts its two threads,
        sender.bind("inproc://first")
        receiver.connect("inproc://first")
        sender.send(bytes(zmq.COPY_THRESHOLD), copy=False)  # and the one that frees what was sent without a copy
        receiver.recv()
    ensure_event_loop()  # jupyter_client's blocking calls run on it
    with leaks.nothing_left():
        yield


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest, global_state: None) -> Iterator[None]:
    """After a test: no new thread, descriptor, process or temporary file, and no error in the log that it did not want.

    ``@pytest.mark.leaves(reason)`` and ``@pytest.mark.error_logs(reason)`` excuse a test.
    """
    before = leaks.Snapshot.take()
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(errors)
    if request.node.get_closest_marker("leaves") is None:
        left = leaks.leftovers(before, seconds=0.2)
        if left:
            gc.collect()  # what only a cycle keeps open is no leak, if a costly way to close
            left = leaks.leftovers(before)
        if left:
            leaks.end(before)
            pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
    if errors.found and request.node.get_closest_marker("error_logs") is None:
        pytest.fail("logged as errors:\n" + "\n".join(errors.found), pytrace=False)


@pytest.fixture(scope="session")
def pythons() -> tuple[Python, ...]:
    """The far-side interpreters of this machine, oldest first, the test's own last.  CI has two old ones at least."""
    found = farside.pythons()
    old = [python for python in found if python.version < (3, 10)]
    if CI and len(old) < 2:
        pytest.fail(f"CI needs two Pythons older than 3.10 (pyenv); found {', '.join(map(str, found))}")
    return found


@pytest.fixture(scope="session")
def bare_python(pythons: tuple[Python, ...]) -> Python:
    """An interpreter without IPython, the newest there is."""
    bare = [python for python in pythons if not python.ipython]
    if not bare:
        missing("a Python without IPython (pyenv)")
    return bare[-1]


@pytest.fixture(scope="session")
def oldest_python(pythons: tuple[Python, ...]) -> Python:
    """The oldest interpreter that the agent runs on: 3.6 where the machine has it."""
    if pythons[0].version >= (3, 8):
        missing("Python 3.6 or 3.7 (pyenv)")
    return pythons[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``each_python`` runs a test on every far-side interpreter."""
    if "each_python" in metafunc.fixturenames:
        metafunc.parametrize("each_python", farside.every_python(), ids=str)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The quick ring reads no files but its own: to collect all takes longer than some of its tests."""
    is_other = collection_path.suffix == ".py" and collection_path.stem not in QUICK
    return True if is_other and config.getoption("markexpr") == "quick" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end neither worker waits for the other; and the mark of the quick ring."""
    for item in items:
        # A kernel's cells in a child with IPython; at the other places they are tested by the whole run only.
        elsewhere = item.path.stem == "test_kernel_cells" and ("-bare" in item.name or "[process" in item.name)
        if item.path.stem in QUICK and not elsewhere and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: (item.path.name != "test_upstream.py", item.get_closest_marker("slow") is None))


def _choose(python: Python | str | None, ipython: bool | None, request: pytest.FixtureRequest) -> Python:
    if isinstance(python, Python):
        return python
    found = farside.pythons()
    if python is not None:
        named = [one for one in found if one.path == python or one.name == python]
        if not named:
            missing(f"Python {python}")
        return named[0]
    if ipython is False:
        bare = request.getfixturevalue("bare_python")
        assert isinstance(bare, Python)
        return bare
    return found[-1]


@pytest.fixture
def flame_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., FlameServer]]:
    """Starts stock Flame servers: ``flame_server(python=None, key=None, servertype="thread", unix=False, env=None,
    ipython=None)``; they end with the test.

    ``python`` is a ``Python``, a path, or a version such as ``"3.8"``; without one, ``ipython=False`` takes an
    interpreter that has no IPython, and anything else the interpreter of the tests, which has.
    """
    started: list[FlameServer] = []

    def start(python: Python | str | None = None, *, ipython: bool | None = None, **options: Any) -> FlameServer:
        started.append(FlameServer(_choose(python, ipython, request), **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def live_app(request: pytest.FixtureRequest) -> Iterator[Callable[..., LiveApp]]:
    """Starts apps that let Flame in from a thread of theirs: ``live_app(python=None, key=None, servertype="thread",
    env=None, ipython=None)``; they end with the test."""
    started: list[LiveApp] = []

    def start(python: Python | str | None = None, *, ipython: bool | None = None, **options: Any) -> LiveApp:
        started.append(LiveApp(_choose(python, ipython, request), **options))
        return started[-1]

    yield start
    for app in started:
        app.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    """A stock server without a key, on the Python of the tests, for all tests of a module that do not harm it."""
    with farside.stopped(FlameServer(farside.pythons()[-1])) as one:
        yield one


@pytest.fixture(scope="module")
def warm_commands(request: pytest.FixtureRequest) -> Iterator[None]:
    """Commands of a module's tests begin at once: see ``shell.warm``. ``WARM`` of the module is what they load."""
    import shell

    with shell.warm(*getattr(request.module, "WARM", ())):
        yield


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real ssh server of the user's own (``sshd.Sshd``), and its client first on the path."""
    from sshd import Sshd

    server = Sshd(tmp_path / "sshd")
    monkeypatch.setenv("PATH", f"{server.ssh}:{os.environ['PATH']}")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    server.stop()


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes an HMAC key to a file that is private, as FLAME_KEY_FILE wants it; its path."""

    def write(key: str) -> Path:
        path = tmp_path / "flame.key"
        path.touch(mode=0o600)
        path.write_text(key + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    missing("Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def nothing_is_left(global_state: None) -> Iterator[None]:
    """What the fixtures of a module leave behind that depend on this one, when all of them are gone."""
    with leaks.nothing_left():
        yield


@pytest.fixture(scope="module")
def lab_server(nothing_is_left: None) -> Iterator[FlameServer]:
    """The far side of ``lab``: a stock server with a key, whose Python has IPython, matplotlib and no notebook."""
    with farside.stopped(FlameServer(farside.pythons()[-1], key=farside.random_key())) as one:
        yield one


@pytest.fixture(scope="module")
def lab(lab_server: FlameServer) -> Iterator[Any]:
    """A JupyterLab whose kernels have their cells at ``lab_server``: a ``lab.Lab``."""
    from lab import Lab

    with (
        tempfile.TemporaryDirectory(prefix="lab-") as folder,
        farside.stopped(Lab(Path(folder), lab_server.environ())) as one,
    ):
        yield one


@pytest.fixture(scope="module")
def chromium_browser(chromium: str, nothing_is_left: None) -> Iterator[Any]:
    """Chromium, headless: Playwright's Browser."""
    from lab import browser

    with browser(chromium) as one:
        yield one


@pytest.fixture(scope="session")
def kernel_installed() -> str:
    """The kernel's name, once it is sure that this environment's Jupyter lists it."""
    listed = subprocess.run(
        [sys.executable, "-m", "jupyter", "kernelspec", "list"], capture_output=True, text=True, check=True
    )
    assert "flame" in listed.stdout.split(), f"install the package first (pip install .)\n{listed.stdout}"
    return "flame"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, FlameServer]]:
    """Three stock servers by their names, for all tests of the module that do not harm them."""
    made = {name: FlameServer(farside.pythons()[-1], unix=True) for name in ("web1", "web2", "web3")}
    yield made
    for one in made.values():
        one.stop()
