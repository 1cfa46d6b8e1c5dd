"""Where cells run: the kernel's own server, or a named one; which name wins; and the kernel's words about it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from farside import FlameServer, LiveApp, Python, random_key, wait_until
from kernels import Kernel, Run, remote_flame
from mini import plain

Start = Callable[..., FlameServer]
StartApp = Callable[..., LiveApp]


def pid_of(kernel: Kernel) -> int:
    """The process in which cells run."""
    run = kernel.execute("import os\nos.getpid()")
    assert run.result is not None, run
    return int(run.result)


def ppid_of(kernel: Kernel) -> int:
    """Its parent."""
    run = kernel.execute("import os\nos.getppid()")
    assert run.result is not None, run
    return int(run.result)


def one_sentence(run: Run) -> str:
    """The words of an error of ours: a line, and no traceback."""
    assert run.error is not None, run
    assert run.reply is not None
    assert run.reply["status"] == "error"
    assert len(run.error["traceback"]) == 1
    text = plain(run.traceback)
    assert text == f"{run.error['ename']}: {run.error['evalue']}"
    assert "Traceback" not in text
    assert "\n" not in text
    return text


def connected(run: Run) -> str:
    """The line that ``%flame connect`` leaves."""
    assert run.error is None, run
    assert run.stdout.startswith("cells run at "), run
    return run.stdout


# --- a server of its own


def test_the_kernels_own_server() -> None:
    with remote_flame() as k, remote_flame() as other:
        child = psutil.Process(pid_of(k))
        server, kernel = child.parent(), psutil.Process(k.pid)
        assert server is not None
        assert server.parent() == kernel
        # On loopback alone, on a port of the system's choice; the child has none.
        (listening,) = [c for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening.laddr.ip == "127.0.0.1"
        assert [c for c in child.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
        status = k.execute("%flame status").stdout
        assert f"at 127.0.0.1:{listening.laddr.port} (the kernel's own server)" in status
        assert f"pid {child.pid}, " in status
        # No two kernels share one, and nobody gets in without the key.
        assert f":{listening.laddr.port} " not in other.execute("%flame status").stdout
        refused = other.execute(f"%flame connect 127.0.0.1:{listening.laddr.port}", allow_stdin=False)
        assert "this server needs a key" in one_sentence(refused)


def test_the_key_of_its_own_server_is_nowhere_to_be_read() -> None:
    # Only inside the server's own process is it to be found: there a cell can tell us what to look for.
    with remote_flame(env={"FLAME_PLACE": "process"}) as inside:
        (key,) = json.loads(
            inside.execute(
                "import gc, json, Pyro4\n"
                "print(json.dumps([d._pyroHmacKey.decode() for d in gc.get_objects() if type(d) is Pyro4.Daemon]))"
            ).stdout
        )
        assert re.fullmatch("[0-9a-f]{64}", key)
        inside.execute("x = 1")
        inside.execute("1 / 0")
        texts = [inside.log_text(), str(inside.strays), *map(str, inside.runs.values())]
        texts = [text.replace(json.dumps([key]), "") for text in texts]  # but for the one that we asked for
        server = psutil.Process(pid_of(inside))
        for process in (server, psutil.Process(inside.pid)):
            texts += [*process.cmdline(), *process.environ().values()]
        texts.append(inside.execute("import os, sys; print(dict(os.environ), sys.argv, sys.orig_argv)").stdout)
        assert not [text for text in texts if key in text]
    with remote_flame() as beside:
        run = beside.execute("import os, sys; print(dict(os.environ), sys.argv, sys.orig_argv, list(globals()))")
        assert run.error is None
        assert "PYRO_HMAC_KEY" not in run.stdout
        marked = [os.environ["REMOTE_FLAME_TEST_RUN"], *os.environ.values()]
        assert [word for word in re.findall("[0-9a-f]{64}", run.stdout) if not any(word in m for m in marked)] == []


def test_its_own_server_ends_with_the_kernel() -> None:
    def gone(*processes: psutil.Process) -> bool:
        return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)

    with remote_flame() as k:
        child = psutil.Process(pid_of(k))
        server = child.parent()
        assert server is not None
        k.execute("import subprocess, sys\nsub = subprocess.Popen(['sleep', '1000'])")
        (sub,) = child.children()
        k.shutdown()
        wait_until(lambda: gone(server, child, sub), "the end of the server after a shutdown")
    with remote_flame() as k:
        child = psutil.Process(pid_of(k))
        server = child.parent()
        assert server is not None
        k.execute("import subprocess, sys\nsub = subprocess.Popen(['sleep', '1000'])")
        (sub,) = child.children()
        k.submit("while True: pass")
        os.kill(k.pid, signal.SIGKILL)
        wait_until(lambda: gone(server, child, sub), "the end of the server after the kernel was killed")
        k.kill()


def test_a_restart_gives_fresh_names_on_the_same_target(flame_server: Start) -> None:
    for environ in ({}, {"FLAME_TARGET": flame_server().location}):
        with remote_flame(env=environ) as k:
            before = pid_of(k)
            k.execute("x = 1")
            where = k.execute("%flame status").stdout
            k.restart()
            run = k.execute("x")
            assert run.error is not None
            assert run.error["ename"] == "NameError"
            assert pid_of(k) != before
            again = k.execute("%flame status").stdout
            assert again.splitlines()[0].split("(")[1] == where.splitlines()[0].split("(")[1]  # but for a port
            wait_until(lambda pid=before: not psutil.pid_exists(pid), "the end of the old session's process")  # type: ignore[misc]


# --- which name wins


def test_the_order_of_targets(flame_server: Start, tmp_path: Path) -> None:
    """%flame connect, then the kernelspec's environment, then the file, then the plain environment."""
    names = ("connected", "kernelspec", "file", "environment")
    servers = {name: flame_server() for name in names}
    config = tmp_path / "targets.toml"
    config.write_text(
        'default = "usual"\n'
        f'[targets.usual]\nlocation = "{servers["file"].location}"\n'
        f'[targets.lab]\nlocation = "{servers["connected"].location}"\nplace = "process"\n'
    )
    filed = {"JUPYTER_CONFIG_DIR": str(tmp_path)}
    plainly = {"FLAME_TARGET": servers["environment"].location}
    specified = {"FLAME_TARGET": servers["kernelspec"].location, "FLAME_KERNELSPEC": "1"}

    def runs_at(k: Kernel, name: str) -> bool:
        assert f" at {servers[name].location} (" in k.execute("%flame status").stdout
        return servers[name].pid in (ppid_of(k), pid_of(k))

    with remote_flame(env=plainly) as k:
        assert runs_at(k, "environment")
    with remote_flame(env={**plainly, **filed}) as k:
        assert runs_at(k, "file")
    with remote_flame(env={**specified, **filed}) as k:
        assert runs_at(k, "kernelspec")
        k.execute("x = 1")
        connected(k.execute(f"%flame connect {servers['connected'].location}"))
        assert runs_at(k, "connected")
        assert k.execute("x").error is not None
        # What was left is ended there; and a name of the file does as well as a location.
        assert servers["kernelspec"].children() == []
        assert "inside the server's own process" in connected(k.execute("%flame connect lab"))
        assert pid_of(k) == servers["connected"].pid
        assert servers["connected"].children() == []
        # The rest of the cell runs there at once, and the notebook's cells are counted on.
        before = k.execute("%flame status").reply
        run = k.execute("%flame connect usual\nimport os\nos.getppid()")
        assert run.result == str(servers["file"].pid)
        assert run.reply is not None
        assert before is not None
        assert run.reply["execution_count"] == before["execution_count"] + 1
        assert f"%flame connect {servers['connected'].location}" in [h[2] for h in k.history(n=20)["history"]]
    for server in servers.values():
        wait_until(lambda server=server: not server.children(), "the end of what ran there")  # type: ignore[misc]


def test_away_from_its_own_server_and_back(flame_server: Start, tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(f'[targets.there]\nlocation = "{flame_server().location}"\n')
    with remote_flame(env={"FLAME_CONFIG": str(tmp_path / "targets.toml")}) as k:
        own = psutil.Process(ppid_of(k))
        assert own.parent() == psutil.Process(k.pid)
        connected(k.execute("%flame connect there"))
        assert not own.is_running()
        assert psutil.Process(k.pid).children() == []


@pytest.mark.parametrize("servertype", ["thread", "multiplex"])
def test_a_unix_socket(servertype: str, flame_server: Start) -> None:
    server = flame_server(unix=True, servertype=servertype)
    assert server.location.startswith("./u:/")
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        run = k.execute("print('over a socket')\nimport os\nos.getppid()")
        assert (run.stdout, run.result) == ("over a socket\n", str(server.pid))
        assert f"at {server.location} (" in k.execute("%flame status").stdout
    with remote_flame() as k:
        connected(k.execute(f"%flame connect {server.location}"))
        assert ppid_of(k) == server.pid


# --- places


@pytest.mark.parametrize("place", [None, "child", "process"])
@pytest.mark.parametrize("app", [False, True], ids=["flameserver", "app"])
def test_places(app: bool, place: str | None, flame_server: Start, live_app: StartApp) -> None:
    server = live_app() if app else flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_PLACE": place}) as k:
        inside = place == "process" or (app and place is None)
        assert (pid_of(k) == server.pid) is inside
        assert (ppid_of(k) == server.pid) is not inside
        words = "inside the server's own process" if inside else "in a child process of the server"
        assert words in k.execute("%flame status").stdout
        assert words in k.kernel_info()["banner"]
        if isinstance(server, LiveApp) and inside:
            # The live objects are what a cell works with.
            assert k.execute("import __main__ as app\napp.device.raise_level()").result == "2"
            assert server.ask("evaluate", "device.level") == "2"
        for other in ("child", "process", "auto"):
            connected(k.execute(f"%flame connect {server.location} --place {other}"))
            assert (pid_of(k) == server.pid) is (other == "process" or (app and other == "auto"))
    assert not server.children()


def test_a_live_app_is_left_as_it_was_found(live_app: StartApp) -> None:
    app = live_app()
    before = app.state()
    with remote_flame(env={"FLAME_TARGET": app.location}) as k:
        assert pid_of(k) == app.pid
        k.execute("import threading\nx = 1\nprint('in the notebook')\ninput('?')", answers=("yes",))
        app.say("in the app")
        assert "x" not in app.state()["main"]
    wait_until(lambda: app.state()["threads"] == before["threads"], "the end of our threads there")
    after = app.state()
    assert after["changed"] == before["changed"] == []
    assert after["main"] == before["main"]
    assert all(name.startswith("flame_agent_") for name in after["planted"])
    assert app.stdout_text().count("in the notebook") == 0
    assert "in the app" in app.stdout_text()


def test_two_kernels_on_one_server_share_nothing(live_app: StartApp) -> None:
    app = live_app()
    with (
        remote_flame(env={"FLAME_TARGET": app.location}) as one,
        remote_flame(env={"FLAME_TARGET": app.location}) as two,
    ):
        runs = []
        for k, name in ((one, "one"), (two, "two")):
            k.execute(f"name = {name!r}")
            runs.append(k.submit("import time\nfor i in range(20):\n    print(name, i)\n    time.sleep(0.01)\nname"))
        for k, run, name in zip((one, two), runs, ("one", "two"), strict=True):
            k.wait(run)
            assert run.result == repr(name)
            assert run.stdout == "".join(f"{name} {i}\n" for i in range(20))
        assert pid_of(one) == pid_of(two) == app.pid


# --- names of sessions, keys


def test_a_session_of_a_name(flame_server: Start) -> None:
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_SESSION": "lab-7"}) as k:
        pid = pid_of(k)
        assert "session lab-7;" in k.execute("%flame status").stdout
        k.execute("kept = 'here'")
        os.kill(k.pid, signal.SIGKILL)
        k.kill()
        # The notebook's kernel is gone, the session is not: who names it finds its names.
        with remote_flame(env={"FLAME_TARGET": server.location}) as other:
            assert pid_of(other) != pid
            taken = other.execute(f"%flame connect {server.location} --session lab-7")
            assert "session lab-7;" in taken.stdout
            assert f"pid {pid}, " in taken.stdout
            assert other.execute("kept").result == "'here'"
            assert other.kernel_info()["language_info"]["version"] == ".".join(map(str, server.python.version))


def test_a_keyed_server(flame_server: Start, key_file: Callable[[str], Path], tmp_path: Path) -> None:
    key = random_key()
    server = flame_server(key=key)
    path = key_file(key)
    environ = {"FLAME_TARGET": server.location, "FLAME_KEY_FILE": str(path)}
    with remote_flame(env=environ) as k:
        run = k.execute("import os\nprint(dict(os.environ))\nos.getppid()")
        assert run.result == str(server.pid)
        assert key not in run.stdout
        assert str(path) not in run.stdout
        k.execute("1 / 0")
        assert key not in k.log_text() + "".join(map(str, k.runs.values())) + str(k.kernel_info())
        process = psutil.Process(k.pid)
        assert key not in str(process.cmdline()) + str(process.environ())
    with remote_flame() as k:
        assert one_sentence(k.execute(f"%flame connect {server.location}", allow_stdin=False))
        # Without one it is asked for, and again where it is wrong; it is in no history.
        typed = k.execute(f"%flame connect {server.location}", answers=("not the key, and long enough", key))
        connected(typed)
        asks = f"Key of the flame server at {server.location}: "
        assert typed.prompts == [(asks, True), (f"Wrong key. {asks}", True)]
        assert "contains the key itself" in one_sentence(k.execute(f"%flame connect {server.location} --key {key}"))
        assert key not in str(k.history(n=20)) + k.log_text() + str(typed.messages)
        connected(k.execute(f"%flame connect {server.location} --key-file {path}"))
        assert ppid_of(k) == server.pid
    (tmp_path / "targets.toml").write_text(f'[targets.x]\nlocation = "{server.location}"\nkey_file = "flame.key"\n')
    (tmp_path / "targets.toml").chmod(0o600)
    with remote_flame(env={"FLAME_CONFIG": str(tmp_path / "targets.toml")}) as k:
        connected(k.execute("%flame connect x"))
        assert ppid_of(k) == server.pid


def test_a_short_key_is_warned_of(flame_server: Start, key_file: Callable[[str], Path]) -> None:
    server = flame_server(key="abc")
    path = key_file("abc")
    with remote_flame() as k:
        run = k.execute(f"%flame connect {server.location} --key-file {path}")
        assert run.stderr.startswith("Warning: the key in")
        assert "abc" not in run.stderr.replace(str(path), "")
        connected(run)


# --- words


def test_the_status_in_words(flame_server: Start, bare_python: Python) -> None:
    server = flame_server(bare_python)
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        pid = pid_of(k)
        status = k.execute("%flame status")
        version = ".".join(map(str, bare_python.version))
        first, second = status.stdout.splitlines()
        assert first == f"cells run at {server.location} (no key), in a child process of the server"
        assert second.startswith(f"host {os.uname().nodename}, pid {pid}, Python {version}, built-in shell")
        assert "built-in shell" in status.stdout
        assert status.stdout.endswith("; link up\n")
        assert status.result is None
        # It says so too where there is nothing to say it of.
        server.kill()
        wait_until(lambda: "link up" not in k.execute("%flame status").stdout, "a status that knows of the loss")
        words = k.execute("%flame status").stdout
        assert "lost" in words or "not connected" in words


def test_status_before_anything_runs(tmp_path: Path) -> None:
    with remote_flame(env={"FLAME_TARGET": f"./u:{tmp_path}/none"}) as k:
        wait_until(lambda: k.execute("%flame status").stdout.startswith("not connected to"), "an outcome")
        assert "there is no such socket file" in k.execute("%flame status").stdout


def test_help_and_wrong_usage() -> None:
    with remote_flame() as k:
        for text in ("%flame help", "%flame?", "  %flame --help"):
            run = k.execute(text)
            assert run.error is None
            for word in ("%flame connect ", "%flame status ", "%flame put ", "%%local "):
                assert word in run.stdout
            assert "%flame eval" not in run.stdout
        for text in ("%flame help connect", "%flame connect?", "%flame connect --help"):
            run = k.execute(text)
            assert run.error is None
            for word in ("%flame connect [WHERE] [options]", "--key-file FILE", "--place", "--session NAME"):
                assert word in run.stdout
        assert k.execute("%flame").stdout.startswith("cells run at ")
        assert k.execute("%%flame?").stdout.startswith("%%flame [options]\n")
        assert k.execute("%%local?").stdout.startswith("%%local: first line")
        pid = pid_of(k)
        for text, said in {
            "%flame bogus": "there is no %flame bogus; %flame help lists the commands",
            "%flame conect h:1": "there is no %flame conect; did you mean %flame connect?",
            "%flame help conect": "there is no %flame conect; did you mean %flame connect?",
            "%flame status now": "takes no arguments",
            "%flame connect a b": "%flame connect does not take 'b': %flame connect [WHERE] [options]",
            "%flame connect localhost": "no target 'localhost'",
            "%flame connect host:port": "no usable port",
            "%flame connect 'open:1": "the quotation is not closed",
            "%flame connect h:1 --place moon": "--place is one of auto, process, child, main, not 'moon'",
            "%flame connect h:1 --place chlid": "did you mean child?",
            "%flame connect h:1 --plac child": "has no option --plac; did you mean --place?",
            "%flame connect h:1 --key-file": "--key-file needs a value: --key-file FILE",
            "%flame connect h:1 --key prompt --key-file f": "--key and --key-file exclude each other",
            "%flame connect h:1 --timeout soon": "--timeout is a number, not 'soon'",
            "%flame put a": "%flame put needs SRC and DST: %flame put SRC… DST [options]",
            "%flame eval 6 * 7": "cells run on the far side already; write it as it is: 6 * 7",
            "%flame use pi": "%flame connect pi",
            "%flame jobs": "no jobs",
            "%%flame\n1": "leave out the %%flame line",
            "y = %flame eval 1": "write the expression itself",
            "%flame connect h:1 --key-file /no/such/file": "cannot read the key file /no/such/file",
            "%flame connect h:1 --session a/b": "not a usable name",
            "%flame connect http://h:1": "not the address of a Flame server",
            "%flame connect ./u:" + "x" * 200: "at most 107 bytes",
            "x = 1\n%flame status": "at the top of a cell",
        }.items():
            assert said in one_sentence(k.execute(text)), text
        # None of it has touched the session, or run a line of the cell.
        assert pid_of(k) == pid
        assert k.execute("x").error is not None


def test_a_flame_line_and_the_cell_below_it() -> None:
    with remote_flame() as k:
        run = k.execute("%flame status\n\n%flame status\nx = 5\nx")
        assert run.stdout.count("cells run at") == 2
        assert run.result == "5"
        run = k.execute("%%local\nimport os\nprint(os.getppid())\ny = 1")
        assert run.error is None
        assert k.execute("y").error is not None
        assert k.execute("%%local\ny").result == "1"
        local = psutil.Process(int(run.stdout)).parent()
        assert local == psutil.Process(k.pid)
