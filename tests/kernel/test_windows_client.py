"""The client on Windows, by wine: the kernel with a server of its own, the library and the command line.

tests/README.md lists where wine is not Windows.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
import windows_far
from farside import FlameServer, wait_until

pytestmark = [pytest.mark.windows, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def wine(nothing_is_left: None) -> Iterator[None]:
    with windows_far.wine():
        yield


@pytest.fixture(scope="module")
def linux(nothing_is_left: None) -> Iterator[FlameServer]:
    with farside.stopped(FlameServer(farside.pythons()[-1], key=farside.random_key())) as server:
        yield server


@pytest.fixture(scope="module")
def kernel(wine: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return windows_far.found(tmp_path_factory.mktemp("kernel"), "kernel")


@pytest.fixture(scope="module")
def library(wine: None, linux: FlameServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return windows_far.found(tmp_path_factory.mktemp("library"), "library", linux.location, linux.key or "")


# -- the kernel, with a server of its own -----------------------------------------------------------------------------


def test_its_kernelspec_is_installed(kernel: Any) -> None:
    assert kernel["install"][0] == 0, kernel["install"]


def test_cells_run_in_a_child_of_its_own_server(kernel: Any) -> None:
    assert kernel["cell"]["stdout"].startswith("win32 ")
    assert kernel["cell"]["execute_result"] == "42"
    assert "from a program" in kernel["program"]["stdout"]
    assert "the kernel's own server" in kernel["status"]["stdout"]
    assert "in a child process" in kernel["status"]["stdout"]
    assert (kernel["error"]["status"], kernel["error"]["error"]) == ("error", "ZeroDivisionError")


def test_a_stop_of_the_front_end_reaches_the_cell(kernel: Any) -> None:
    assert kernel["stopped"]["error"] == "KeyboardInterrupt"
    assert kernel["after"]["execute_result"] == "'still here'"


def test_local_cells_and_files_of_this_side(kernel: Any) -> None:
    assert kernel["local"]["stdout"] == "here win32\n"
    assert kernel["put"]["stdout"].startswith("1 file, ")
    assert kernel["put there"] == "text\n"
    assert kernel["tab"][0].endswith("getppid")


def test_its_server_ends_with_it_and_what_cells_have_started(kernel: Any) -> None:
    assert kernel["ended"] == [True, True]
    assert kernel["ended with a killed kernel"] is True


# -- the library, connected to a far side on Linux --------------------------------------------------------------------


def test_values_callbacks_and_errors(library: Any) -> None:
    assert (library["where"], library["callback"], library["bytes"]) == ("linux", 3, 3_000_000)
    assert (library["error"], library["module"]) == ("division by zero", "sent")
    assert library["forward"].startswith("http://localhost:")
    assert library["own"] == "win32"


def test_files_keep_their_bytes(library: Any) -> None:
    assert library["there"] == library["back"] == "1\r\n"


@pytest.mark.parametrize("name", ["get a:b", "get nul"])
def test_a_name_that_windows_does_not_have(library: Any, name: str) -> None:
    assert f"'{name[4:]}' is not a possible file name on Windows" in library[name]


@pytest.mark.parametrize("name", ["CON", "x?", "C:\\nosuch\\x"])
def test_a_destination_that_cannot_be(library: Any, name: str) -> None:
    assert library[f"get to {name}"].startswith("FlameError: ")


# -- the command line -------------------------------------------------------------------------------------------------


class Shell:
    """``jupyter flame`` in a folder there."""

    def __init__(self, folder: Path, server: FlameServer) -> None:
        self.folder, self._server = folder, server
        (folder / "key").write_text(server.key or "")
        (folder / "key").chmod(0o600)  # which wine shows as an access list
        (folder / "a.txt").write_text("text\n")

    def __call__(self, *words: str, where: bool = True) -> subprocess.CompletedProcess[str]:
        reach = ("-t", self._server.location, "--key-file", "key") if where else ()
        return windows_far.run(self.folder, "-m", "flame_kernel.cli", *words, *reach)


@pytest.fixture(scope="module")
def shell(wine: None, linux: FlameServer, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"), linux)


def test_the_command_line(shell: Shell, linux: FlameServer) -> None:
    done = shell("exec", "import sys; print(sys.platform)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "linux\n", "")
    done = shell("put", "a.txt", "there.txt")
    assert done.returncode == 0, done.stderr
    assert (linux.cwd / "there.txt").read_bytes() == b"text\n"


def test_a_target_before_a_path_is_no_drive(shell: Shell, linux: FlameServer) -> None:
    assert shell("targets", "add", "lab", linux.location, "--key-file", "key", where=False).returncode == 0
    (targets,) = (shell.folder / "config").rglob("targets.toml")
    assert targets.stat().st_mode & 0o007 == 0  # its access list has the user, the system and administrators
    done = shell("put", windows_far.path(shell.folder / "a.txt"), "lab:b.txt", where=False)
    assert done.returncode == 0, done.stderr
    assert (linux.cwd / "b.txt").read_bytes() == b"text\n"


def test_through_ssh(shell: Shell, linux: FlameServer) -> None:
    windows_far.ssh(shell.folder)
    where = f"ssh://far/{linux.location.rpartition(':')[2]}"
    done = shell("exec", "import sys; print(sys.platform)", "-t", where, "--key-file", "key", where=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "linux\n", "")
    wait_until(lambda: not windows_far.processes("ssh.exe"), "the end of ssh")


def test_what_windows_does_not_have(shell: Shell) -> None:
    done = shell("ignite", "1", where=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "works on Linux only" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_that_others_can_read(shell: Shell) -> None:
    (shell.folder / "key").chmod(0o644)
    done = shell("exec", "1")
    (shell.folder / "key").chmod(0o600)
    assert done.returncode == 1
    assert "is open to others (everyone); in a command prompt, run: icacls " in " ".join(done.stderr.split())


def test_a_key_is_not_asked_for_without_a_terminal(shell: Shell, linux: FlameServer) -> None:
    done = shell("targets", "add", "other", linux.location, "--key", "keyring", where=False)
    assert done.returncode == 1
    assert "there is no terminal to ask for the key" in done.stderr
