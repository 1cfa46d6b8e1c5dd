"""The clients of item 9, each as its users start it: nbclient, papermill, nbconvert, jupyter console, VS Code's way."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import papermill
import pexpect
import pytest
import zmq
from farside import FlameServer, wait_until
from jupyter_client.kernelspec import KernelSpecManager
from kernels import KERNEL_NAME, remote_flame
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from shell import terminal

Start = Callable[..., FlameServer]

METADATA = {"kernelspec": {"name": KERNEL_NAME, "display_name": "Remote Flame", "language": "python"}}

FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"


def notebook(*sources: str, tags: dict[int, str] | None = None) -> Any:
    cells = [new_markdown_cell("# A notebook")]
    for number, source in enumerate(sources):
        cell = new_code_cell(source)
        if number in (tags or {}):
            cell.metadata["tags"] = [(tags or {})[number]]
        cells.append(cell)
    return new_notebook(cells=cells, metadata=METADATA)


def save(path: Path, *sources: str, tags: dict[int, str] | None = None) -> Path:
    nbformat.write(notebook(*sources, tags=tags), path)
    return path


def texts(nb: Any) -> list[str]:
    """What each code cell shows as text."""
    shown = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            parts = [o.get("text") or o.get("data", {}).get("text/plain") or o.get("ename", "") for o in cell.outputs]
            shown.append("".join(parts))
    return shown


def jupyter(*arguments: str, environ: dict[str, str], cwd: Path) -> str:
    """The stdout and stderr of a jupyter command; AssertionError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_jupyter_execute(flame_server: Start, tmp_path: Path) -> None:
    server = flame_server()
    path = save(
        tmp_path / "work.ipynb",
        "import os\nos.getppid()",
        "print('out'); import sys; print('err', file=sys.stderr)",
        "await __import__('asyncio').sleep(0, 'awaited')",
        FIGURE,
        "_",
    )
    environ = {"FLAME_TARGET": server.location}
    jupyter("jupyter", "execute", str(path), "--inplace", environ=environ, cwd=tmp_path)
    nb = nbformat.read(path, 4)
    assert texts(nb)[:3] == [str(server.pid), "out\nerr\n", "'awaited'"]
    assert any("image/png" in o.get("data", {}) for o in nb.cells[4].outputs)
    assert [cell.execution_count for cell in nb.cells[1:]] == [1, 2, 3, 4, 5]
    assert nb.metadata.language_info.version == ".".join(map(str, server.python.version))
    nbformat.validate(nb)


def test_nbclient_and_an_error(flame_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = flame_server(ipython=False)
    monkeypatch.setenv("FLAME_TARGET", server.location)
    nb = notebook("import sys\nsys.version_info[:2]", "def f():\n    return 1 / 0\nf()", "'never'")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        nbclient.NotebookClient(nb, timeout=30).execute()
    assert texts(nb) == [str(server.python.version[:2]), "ZeroDivisionError", ""]
    nb = notebook("1 / 0", "'after'")
    nbclient.NotebookClient(nb, timeout=30, allow_errors=True).execute()
    assert texts(nb) == ["ZeroDivisionError", "'after'"]


@pytest.mark.error_logs("nbclient says that the cell took too long")
def test_nbclient_stops_a_cell_that_takes_too_long(flame_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_TARGET", flame_server().location)
    nb = notebook("'connected'", "import time\nprint('began', flush=True)\ntime.sleep(100)", "'next'")

    def patience(cell: Any) -> int:
        return 5 if "sleep" in cell.source else 60

    nbclient.NotebookClient(nb, timeout_func=patience, interrupt_on_timeout=True, allow_errors=True).execute()
    assert "began\n" in texts(nb)[1]
    assert "KeyboardInterrupt" in texts(nb)[1]
    assert texts(nb)[2] == "'next'"


def test_papermill(flame_server: Start, tmp_path: Path) -> None:
    path = save(tmp_path / "report.ipynb", "rate = 1\nname = 'nobody'", "f'{name} {rate * 2}'", tags={0: "parameters"})
    # In a process of its own, as its users have it; it brings a progress bar and an event loop.
    jupyter(
        "papermill",
        str(path),
        str(tmp_path / "done.ipynb"),
        "-p",
        "rate",
        "21",
        "-p",
        "name",
        "pump",
        "--no-progress-bar",
        environ={"FLAME_TARGET": flame_server().location},
        cwd=tmp_path,
    )
    nb = nbformat.read(tmp_path / "done.ipynb", 4)
    assert texts(nb)[-1] == "'pump 42'"
    assert nb.metadata.papermill.exception is None
    assert papermill.inspect_notebook(str(path))["rate"]["default"] == "1"


def test_nbconvert(flame_server: Start, tmp_path: Path) -> None:
    server = flame_server()
    path = save(tmp_path / "page.ipynb", "import os\nprint('at', os.getppid())", FIGURE)
    jupyter(
        "nbconvert", "--execute", "--to", "html", str(path), environ={"FLAME_TARGET": server.location}, cwd=tmp_path
    )
    page = (tmp_path / "page.html").read_text()
    assert f"at {server.pid}" in page
    assert "data:image/png;base64," in page


# --- a terminal


@contextlib.contextmanager
def console(environ: dict[str, str], cwd: Path) -> Iterator[pexpect.spawn[str]]:
    arguments = [
        "-m",
        "jupyter_console",
        "--kernel",
        KERNEL_NAME,
        "--simple-prompt",
        "--ZMQTerminalInteractiveShell.kernel_timeout=60",
    ]
    settings = {"TERM": "dumb", "PYTHONWARNINGS": "ignore"}
    with terminal(sys.executable, *arguments, env={**os.environ, **environ, **settings}, cwd=cwd) as child:
        child.expect(r"In \[1\]: ")
        yield child


def test_the_console(flame_server: Start, tmp_path: Path) -> None:
    server = flame_server()
    with console({"FLAME_TARGET": server.location}, tmp_path) as c:
        assert "Remote Flame" in c.before
        assert "%flame status" in c.before
        c.sendline("6 * 7")
        c.expect(r"Out\[1\]: 42")
        c.expect(r"In \[2\]: ")
        c.sendline("import time\rfor i in range(3): print('line', i, flush=True); time.sleep(0.05)")
        c.expect("line 0\r\n.*line 1\r\n.*line 2\r\n")
        c.expect(r"In \[(\d+)\]: ")
        c.sendline("print('hello', input('who? '))")
        c.expect(r"who\? $")
        c.sendline("you")
        c.expect("hello you")
        c.expect(r"In \[\d+\]: ")
        c.sendline("1 / 0")
        c.expect("ZeroDivisionError")
        c.expect("division by zero")
        c.expect(r"In \[\d+\]: ")
        c.sendline("import time; print('sleeping', flush=True); time.sleep(100)")
        c.expect("sleeping\r\n")
        began = time.monotonic()
        c.sendintr()
        c.expect("KeyboardInterrupt")
        assert time.monotonic() - began < 5
        c.expect(r"In \[\d+\]: ")
        c.sendline("%flame status")
        c.expect(rf"at {re.escape(server.location)} \(")
        c.expect(r"In \[\d+\]: ")
        c.sendline("'still', 'there'")
        c.expect(re.escape("('still', 'there')"))
        c.expect(r"In \[\d+\]: ")
        c.sendline("exit")
        c.expect(pexpect.EOF)
        c.wait()
        assert c.exitstatus == 0
    wait_until(lambda: not server.children(), "the end of the session")
    assert server.alive


# --- an editor that knows the kernelspec and nothing else


def by_kernelspec(folder: Path, transport: str) -> tuple[list[str], dict[str, Any]]:
    """The command line and the connection file of a kernel, as VS Code makes them: an interpreter by its full path."""
    spec = KernelSpecManager().get_kernel_spec(KERNEL_NAME)
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    if transport == "tcp":
        ip = "127.0.0.1"
        with contextlib.ExitStack() as sockets:
            context = zmq.Context.instance()
            bound = [sockets.enter_context(contextlib.closing(context.socket(zmq.REP))) for _ in names]
            ports = [one.bind_to_random_port("tcp://127.0.0.1") for one in bound]
    else:
        ip, ports = str(folder / "k"), list(range(1, 6))
    connection = {
        **dict(zip(names, ports, strict=True)),
        "ip": ip,
        "key": "0123456789abcdef0123456789abcdef",
        "transport": transport,
        "signature_scheme": "hmac-sha256",
        "kernel_name": KERNEL_NAME,
    }
    path = folder / "kernel-vscode.json"
    path.touch(0o600)
    path.write_text(json.dumps(connection))
    argv = [sys.executable if part == "python" else part.format(connection_file=path) for part in spec.argv]
    return argv, connection


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_kernel_by_its_kernelspec_alone(transport: str, flame_server: Start, tmp_path: Path) -> None:
    from jupyter_client.blocking.client import BlockingKernelClient

    server = flame_server()
    argv, connection = by_kernelspec(tmp_path, transport)
    assert os.path.isabs(argv[0])
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            argv,
            cwd=tmp_path,
            env={**os.environ, "FLAME_TARGET": server.location},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        client = BlockingKernelClient()
        client.load_connection_info(connection)
        client.start_channels(hb=False)  # a heartbeat that is asked for before there is one counts as a death
        try:
            client.wait_for_ready(timeout=30)
            client.hb_channel.start()
            client.hb_channel.unpause()
            said: list[dict[str, Any]] = []
            reply = client.execute_interactive(
                "import os\nprint('hello')\nos.getppid()", output_hook=said.append, timeout=30
            )
            assert reply["content"]["status"] == "ok"
            assert [m["content"]["text"] for m in said if m["msg_type"] == "stream"] == ["hello\n"]
            results = [m["content"]["data"]["text/plain"] for m in said if m["msg_type"] == "execute_result"]
            assert results == [str(server.pid)]
            # Stop, by the message that interrupt_mode asks for; then the end.
            client.execute("import time; time.sleep(100)")
            wait_until(lambda: client.get_iopub_msg(timeout=5)["msg_type"] == "execute_input", "the start of the cell")
            client.control_channel.send(client.session.msg("interrupt_request", {}))
            reply = client.get_shell_msg(timeout=10)
            assert reply["content"]["ename"] == "KeyboardInterrupt"
            wait_until(client.hb_channel.is_beating, "the heartbeat")
            client.shutdown()
            assert process.wait(15) == 0, (tmp_path / "log").read_text()
        finally:
            client.stop_channels()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert not server.children()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_an_encrypted_kernel(transport: str, flame_server: Start) -> None:
    """CurveZMQ, required: without it the kernel would not start."""
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location}, transport=transport, transport_encryption="required") as k:
        info = json.loads(Path(k.manager.connection_file).read_text())
        assert info["curve_publickey"]
        assert "without encryption" not in k.log_text()
        run = k.execute("import os\nprint('secret')\nos.getppid()")
        assert (run.stdout, run.result) == ("secret\n", str(server.pid))
        assert k.execute("input('?')", answers=("yes",)).result == "'yes'"
        # Who does not know the server's key hears nothing.
        if transport == "tcp":
            with contextlib.closing(zmq.Context.instance().socket(zmq.SUB)) as plain:
                plain.linger = 0
                plain.subscribe(b"")
                plain.connect(f"tcp://127.0.0.1:{info['iopub_port']}")
                assert k.execute("print('to nobody')").stdout == "to nobody\n"
                assert plain.poll(200) == 0
