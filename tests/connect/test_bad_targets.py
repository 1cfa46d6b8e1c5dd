"""Bad input: targets that cannot be had, front ends that send nonsense, and a notebook's folder full of traps.

Whatever is wrong with the target, the kernel starts, the first cell says what and what to do, and the next may connect.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from farside import FarProcess, FlameServer, Python, random_key, wait_until
from kernels import Kernel, Run, remote_flame
from mini import plain
from other_servers import nobody, one_line_server, web_server

from flame_kernel.connect.target import Location, Target
from flame_kernel.session.session import Session

Start = Callable[..., FlameServer]

SECONDS = 10.0  # a first cell's error is there by then


def words(run: Run) -> str:
    """The one sentence of a cell's error."""
    assert run.error is not None, run
    assert run.reply is not None
    assert run.reply["status"] == "error"
    (line,) = run.error["traceback"]
    text = plain(line)
    assert "Traceback" not in text
    assert "\n" not in text
    assert text == f"{run.error['ename']}: {run.error['evalue']}"
    assert run.output == run.of_type("error")
    return text


def first_error(kernel: Kernel) -> str:
    """What the first cell says, in time."""
    began = time.monotonic()
    text = words(kernel.execute("print('never')", timeout=SECONDS + 5))
    assert time.monotonic() - began < SECONDS
    return text


@contextlib.contextmanager
def fixed(location: str) -> Iterator[str]:
    yield location


BAD = {
    "refused": (nobody, r"connection refused; is pyro4-flameserver running there\?"),
    "web": (web_server, r"not Pyro \(an HTTP server: '.+'\); start pyro4-flameserver there"),
    "ssh": (lambda: one_line_server(b"SSH-2.0-OpenSSH_9.2\r\n"), r"\(an SSH server: 'SSH-2\.0-OpenSSH_9\.2'\); start"),
    "smtp": (lambda: one_line_server(b"220 mail ready\r\n"), r"\(a mail or FTP server: '220 mail ready'\); start"),
    "other": (
        lambda: one_line_server(b"hello, who is there?\n"),
        r"\(something else: 'hello, who is there\?'\); start",
    ),
    "no-socket": (
        lambda: fixed("./u:/no/such/socket"),
        r"there is no such socket file\); is pyro4-flameserver running",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_first_cell_says_what_is_wrong(name: str) -> None:
    start, said = BAD[name]
    with start() as location, remote_flame(env={"FLAME_TARGET": location}) as k:
        text = first_error(k)
        assert text.startswith(f"CannotConnect: cannot reach the flame server at {location}: ")
        assert re.search(said, text)
        assert words(k.execute("1")) == text
        assert k.complete("prin")["status"] == "ok"
        assert k.usage() == {}
        assert location in k.execute("%flame status").stdout
        # What needs no far side works all the same.
        assert k.execute("%%local\n6 * 7").result == "42"
        assert k.is_complete("for i in x:")["status"] == "incomplete"
        assert k.execute("1", silent=True).error is None


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("no-such-host.invalid:9999", r"the host name is unknown \(.+\); check its spelling"),
        ("255.255.255.255:9999", r"it cannot be reached \(.+\); check the network"),
    ],
    ids=["unknown", "unreachable"],
)
def test_another_machine(location: str, said: str, key_file: Callable[[str], Path]) -> None:
    """In the open only where the user says so, each time; and then it says what is wrong with that host."""
    key = key_file(random_key())
    with remote_flame(env={"FLAME_TARGET": location}) as k:
        text = first_error(k)
        if "unknown" in said:  # a name that nobody knows is a mistyped one
            assert re.search(said, text)
        else:
            assert text.startswith(f"TargetError: {location} is another machine, and the connection would have neither")
            assert f"ssh://user@{location.replace(':', '/')}" in text
            text = words(k.execute(f"%flame connect {location} --key-file {key}"))
            assert "others could read and replay it" in text
        for options in ("--insecure", f"--key-file {key} --allow-plain"):
            assert re.search(said, words(k.execute(f"%flame connect {location} {options}")))


def test_a_good_target_in_the_next_cell(flame_server: Start) -> None:
    server = flame_server()
    with nobody() as nowhere, remote_flame(env={"FLAME_TARGET": nowhere}) as k:
        first_error(k)
        run = k.execute(f"%flame connect {server.location}")
        assert run.error is None
        assert run.stdout.startswith("cells run at ")
        run = k.execute("import os\nprint('there')\nos.getppid()")
        assert (run.stdout, run.result) == ("there\n", str(server.pid))
        # And the other way round: where nobody is, one does not go, and the names are kept.
        k.execute("kept = 'here'")
        assert "connection refused" in words(k.execute(f"%flame connect {nowhere}"))
        assert k.execute("kept").result == "'here'"
        assert k.execute(f"%flame connect {server.location}\n'kept' in globals()").result == "False"


def test_a_server_that_comes_up_later_is_found(tmp_path: Path, pythons: tuple[Python, ...]) -> None:
    """No restart, no %flame: the next cell tries again."""
    path = tmp_path / "s"
    with remote_flame(env={"FLAME_TARGET": f"./u:{path}"}) as k:
        first_error(k)
        server = FarProcess(["-m", "Pyro4.utils.flameserver", "-u", str(path)], pythons[-1], {}, subprocess.DEVNULL)
        try:
            wait_until(path.exists, "the server's socket")
            wait_until(lambda: k.execute("6 * 7").result == "42", "a cell that runs there")
        finally:
            server.stop()


def test_no_answer(flame_server: Start) -> None:
    """A server that takes the connection and never says a word; and Tab, Stop and ``%flame`` meanwhile."""
    with one_line_server(b"") as mute, remote_flame(env={"FLAME_TARGET": mute}) as k:
        assert f"connecting to {mute}\n" in k.kernel_info()["banner"]
        k.complete("prin")  # gives up before the connection does, and must not take it along
        text = first_error(k)
        assert text.startswith(f"CannotConnect: cannot reach the flame server at {mute}: no answer in time")
        assert "it takes connections but does not answer" in text
        assert text.endswith("is the host up, and does a firewall let this port through?")
        run = k.submit("1")
        k.wait_for(lambda: run.of_type("execute_input"), "the start of the cell")
        k.interrupt()  # comes as the cell begins, or while it waits; it is no later error that ends the cell
        k.wait(run)
        assert run.reply is not None
        assert run.reply["ename"] == "KeyboardInterrupt"
        assert k.execute(f"%flame connect {flame_server().location}\n1 + 1").result == "2"


def test_stop_while_connecting_drops_what_is_queued() -> None:
    with one_line_server(b"") as mute, remote_flame(env={"FLAME_TARGET": mute}) as k:
        runs = [k.submit("1"), k.submit("2")]
        k.wait_for(lambda: runs[0].of_type("execute_input"), "the start of the cell")
        k.interrupt()
        for run in runs:
            k.wait(run)
        assert runs[0].reply is not None
        assert runs[1].reply is not None
        assert (runs[0].reply["ename"], runs[1].reply["status"]) == ("KeyboardInterrupt", "aborted")
        assert "stopped while connecting" in words(runs[0])


# --- Pyro, but not so


DAEMON = """
import Pyro4
Pyro4.config.SERIALIZERS_ACCEPTED = {"pickle"}
daemon = Pyro4.Daemon()
print("server uri: PYRO:x@" + daemon.locationStr, flush=True)
daemon.requestLoop()
"""


def test_a_daemon_without_flame(pythons: tuple[Python, ...], tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    daemon = FarProcess([str(tmp_path / "daemon.py")], pythons[-1], {}, subprocess.DEVNULL)
    try:
        location = daemon._wait_for_line("server uri: ").partition("@")[2]
        with remote_flame(env={"FLAME_TARGET": location}) as k:
            text = first_error(k)
            assert "a Pyro daemon answers there, but it offers no Flame" in text
            assert "PYRO_FLAME_ENABLED=true" in text
    finally:
        daemon.stop()


def test_flame_that_is_not_enabled(flame_server: Start, pythons: tuple[Python, ...], tmp_path: Path) -> None:
    """The stock flameserver then does not start; what is left is a refused connection, and its cure."""
    server = FarProcess(
        ["-m", "Pyro4.utils.flameserver", "-u", str(tmp_path / "s")],
        pythons[-1],
        {"PYRO_FLAME_ENABLED": "false"},
        subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: not server.alive, "its end")
        assert "Flame is disabled in the server configuration" in server.stderr_text()
        with remote_flame(env={"FLAME_TARGET": f"./u:{tmp_path}/s"}) as k:
            assert "is pyro4-flameserver running there?" in first_error(k)
    finally:
        server.stop()


def test_keys(flame_server: Start, key_file: Callable[[str], Path]) -> None:
    key = random_key()
    keyed, open_ = flame_server(key=key), flame_server()
    with remote_flame(env={"FLAME_TARGET": keyed.location}) as k:
        text = first_error(k)
        assert "this server needs a key" in text
        assert "FLAME_KEY_FILE" in text
        path = key_file(random_key())
        text = words(k.execute(f"%flame connect {keyed.location} --key-file {path}"))
        assert "wrong key for this server; check --key-file (key_file)" in text
        text = words(k.execute(f"%flame connect {open_.location} --key-file {path}"))
        assert "a key is set here but the server has none, so anyone could use it" in text
        path = key_file("schlüssel " * 300)
        assert "wrong key for this server" in words(k.execute(f"%flame connect {keyed.location} --key-file {path}"))
        run = k.execute(f"%flame connect {keyed.location} --key-file {key_file(key)}\n'inside'")
        assert run.result == "'inside'"
        assert key not in k.log_text() + "".join(map(str, k.runs.values()))


def test_key_files_that_are_refused(flame_server: Start, key_file: Callable[[str], Path], tmp_path: Path) -> None:
    server = flame_server(key=random_key())
    path = key_file(random_key())
    path.chmod(0o644)
    empty = tmp_path / "empty"
    empty.touch(0o600)
    for bad, said in (
        (path, f"is open to others (mode 0644); run: chmod 600 {path}"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "is not a regular file"),
        (empty, "is empty; put the server's PYRO_HMAC_KEY into it"),
    ):
        with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_KEY_FILE": str(bad)}) as k:
            text = first_error(k)
            assert text.startswith("TargetError: ")
            assert said in text
            assert said in k.execute("%flame status").stdout
            assert k.complete("prin")["status"] == "ok"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"FLAME_TARGET": "nowhere"}, "there is no target 'nowhere' in "),
        ({"FLAME_TARGET": "host:port"}, "'host:port' has no usable port; give a number from 1 to 65535"),
        ({"FLAME_PLACE": "moon"}, "place 'moon' is unknown; choose one of auto"),
        ({"FLAME_SESSION": "a b", "FLAME_CONFIG": "/no/such/file"}, "not a usable name"),
    ],
)
def test_settings_that_mean_nothing(environ: dict[str, str | None], said: str, flame_server: Start) -> None:
    with remote_flame(env=environ) as k:
        text = first_error(k)
        assert text.startswith("TargetError: ")
        assert said in text
        assert said in k.kernel_info()["banner"]
        if "FLAME_TARGET" in environ:
            assert k.execute(f"%flame connect {flame_server().location}\n6 * 7").result == "42"


def test_a_broken_configuration_file(tmp_path: Path, flame_server: Start) -> None:
    path = tmp_path / "targets.toml"
    path.write_text("default = [")
    with remote_flame(env={"FLAME_CONFIG": str(path)}) as k:
        text = first_error(k)
        assert f"the configuration file {path} is not valid TOML" in text
        assert text.endswith("correct that line")
        assert "not valid TOML" in words(k.execute(f"%flame connect {flame_server().location}"))
        path.write_text("")
        assert k.execute(f"%flame connect {flame_server().location}\n6 * 7").result == "42"


def test_a_server_without_a_free_connection(flame_server: Start) -> None:
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    with contextlib.closing(Session(Target(Location.parse(server.location)), lambda events: None)) as taken:
        taken.ready.result(20)
        with remote_flame(env={"FLAME_TARGET": server.location}) as k:
            text = first_error(k)
            assert "the server has no free connection" in text
            assert "PYRO_THREADPOOL_SIZE" in text
            taken.close()
            wait_until(lambda: k.execute("6 * 7").result == "42", "a free connection")


def test_a_pool_that_is_full_after_the_first_connection(flame_server: Start) -> None:
    """A session takes two: with room for one only, nothing of it may stay behind."""
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "1", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        assert "the server has no free connection" in first_error(k)
        wait_until(lambda: not server.children(), "the end of the half-made session")


# --- front ends that send nonsense


def test_malformed_messages_do_not_end_the_kernel() -> None:
    with remote_flame() as k:
        k.execute("x = 1")
        pid = k.pid
        k.client.session.copy_threshold = 1 << 30  # zero-copy would start a thread of pyzmq's in this process
        for channel in ("shell", "control"):
            for msg_type in (
                "execute_request",
                "complete_request",
                "inspect_request",
                "is_complete_request",
                "history_request",
                "comm_open",
                "comm_msg",
                "comm_close",
                "comm_info_request",
                "debug_request",
                "create_subshell_request",
                "delete_subshell_request",
                "interrupt_reply",
                "no_such_request",
                "",
                "shutdown_reply",
                "__init__",
                "a" * 10_000,
            ):
                for content in ({}, {"code": None}, {"code": 3, "cursor_pos": "x", "hist_access_type": []}):
                    k.request(msg_type, dict(content), channel=channel)
        for metadata in ({"cellId": 5}, {"x": "y" * 1_000_000}, {str(i): {} for i in range(10_000)}):
            run = k.wait(k.request("execute_request", {"code": "x"}, metadata=metadata))
            assert run.result == "1"
        odd = {"code": "x", "silent": "maybe", "user_expressions": None, "store_history": 0, "allow_stdin": []}
        run = k.wait(k.request("execute_request", odd))
        assert run.reply is not None
        for expressions in ({"a": 3}, {"a": None, "b": "x"}, []):
            run = k.wait(k.request("execute_request", {"code": "x", "user_expressions": expressions}))
            assert run.reply is not None
        k.request("execute_request", {"code": "x"}, subshell="no such subshell")
        # Frames that are no message at all, on each channel.
        for channel in ("shell", "control", "stdin"):
            sock = getattr(k.client, f"{channel}_channel").socket
            for frames in ([b"x"], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", b"{}"], [b""] * 50):
                sock.send_multipart(frames)
        k.client.stdin_channel.send(k.client.session.msg("input_reply", {}))
        k.client.stdin_channel.send(k.client.session.msg("input_reply", {"value": {"a": 1}}))
        run = k.execute("print('alive'); input('?')", answers=("yes",))
        assert (run.stdout, run.result) == ("alive\n", "'yes'")
        assert k.usage()["pid"] != pid == k.pid
        k.take_all(0.1)


# --- a folder full of traps


TRAPS = ("flame_kernel", "Pyro4", "random", "sitecustomize", "usercustomize", "ipykernel", "json", "os", "encodings")


def test_files_in_the_notebooks_folder_are_not_imported(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write({name!r} + ' ' + __name__ + '\\n')\n")
    (folder / "pyvenv.cfg").write_text("home = /nowhere\n")
    (folder / ".pdbrc").write_text(f"open({str(canary)!r}, 'a').write('pdbrc\\n')\n")
    with remote_flame(cwd=folder) as k:
        assert k.execute("6 * 7").result == "42"
        assert k.complete("impor")["status"] == "ok"
        assert k.execute("%flame status").error is None
        assert k.execute("%%local\n1").result == "1"
        k.restart()
        assert k.execute("6 * 7").result == "42"
        assert psutil.Process(k.pid).cwd() == str(folder)
    assert not canary.exists(), canary.read_text()


def test_a_python_path_that_a_user_sets_is_his_own(tmp_path: Path) -> None:
    """Only the folder is shut out, not what somebody put on the path on purpose."""
    (tmp_path / "mine.py").write_text("value = 'imported'\n")
    with remote_flame(env={"PYTHONPATH": os.fspath(tmp_path)}, cwd="/") as k:
        assert k.execute("%%local\nimport mine\nmine.value").result == "'imported'"
