"""A kernel as a front end sees it: started by jupyter_client, asked over its sockets, every message kept with its time.

    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        run = k.execute("print('hi'); 6 * 7")
        assert run.stdout == "hi\\n" and run.result == "42"

A ``Run`` is one request and all that belongs to it; several may be under way at once (``submit``, then ``wait_for``).
Nothing here runs in the background: messages are taken from the sockets while one waits.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_core.paths import jupyter_runtime_dir

KERNEL_NAME = "flame"
TIMEOUT = 30.0


@dataclass(frozen=True)
class Message:
    """One message of the kernel; ``at`` is in seconds since its request was sent."""

    type: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    buffers: list[Any]
    channel: str
    at: float


@dataclass(repr=False)
class Run:
    """One request to the kernel: its reply and all that came on iopub and stdin for it, in order of arrival."""

    id: str
    sent: float
    reply: dict[str, Any] | None = None
    reply_at: float | None = None
    messages: list[Message] = field(default_factory=list)
    idle_at: float | None = None
    expects_idle: bool = True

    @property
    def done(self) -> bool:
        """The reply is here, and the kernel says that all output is."""
        return self.reply is not None and (self.idle_at is not None or not self.expects_idle)

    @property
    def iopub(self) -> list[Message]:
        """Everything of the iopub channel, status and execute_input too."""
        return [message for message in self.messages if message.channel == "iopub"]

    def of_type(self, *types: str) -> list[Message]:
        """The messages of these types."""
        return [message for message in self.messages if message.type in types]

    @property
    def output(self) -> list[Message]:
        """What a notebook would show, in order."""
        return self.of_type("stream", "display_data", "execute_result", "error", "update_display_data", "clear_output")

    def _stream(self, name: str) -> str:
        return "".join(m.content["text"] for m in self.of_type("stream") if m.content["name"] == name)

    @property
    def stdout(self) -> str:
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    @property
    def result(self) -> str | None:
        """The text of the last value, as Out shows it."""
        results = self.of_type("execute_result")
        return str(results[-1].content["data"]["text/plain"]) if results else None

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The MIME bundles of ``display``."""
        return [message.content["data"] for message in self.of_type("display_data")]

    @property
    def error(self) -> dict[str, Any] | None:
        """ename, evalue and traceback of the error message, if there was one."""
        errors = self.of_type("error")
        return errors[-1].content if errors else None

    @property
    def traceback(self) -> str:
        """The error's traceback as one text, colours included; empty if there was none."""
        return "\n".join(self.error["traceback"]) if self.error else ""

    @property
    def prompts(self) -> list[tuple[str, bool]]:
        """What ``input`` and ``getpass`` asked, without the server's name before it: text, and whether the answer is
        secret."""
        asked = [(m.content["prompt"], m.content["password"]) for m in self.of_type("input_request")]
        return [(re.sub(r"^\[[^ ]+\] ", "", prompt), secret) for prompt, secret in asked]

    def __repr__(self) -> str:
        lines = [
            f"  {m.at:7.3f} {m.channel:7} {m.type}: {str(m.content)[:300]}"
            for n, m in enumerate(self.messages)  # of a flood, what is not part of it
            if min(n, len(self.messages) - n) < 5 or m.content.get("name") != "stdout"
        ]
        return "\n".join([f"{self.id}: reply {self.reply} at {self.reply_at}", *lines])


class Kernel:
    """A running kernel and the client side of it.  Made by ``remote_flame``."""

    def __init__(self, manager: KernelManager, environ: dict[str, str], cwd: str | None, log: IO[bytes]) -> None:
        self.manager = manager
        self.log = log
        self.runs: dict[str, Run] = {}
        # Messages that belong to no request of ours: comms, threads of another front end's cells, the start.
        self.strays: list[Message] = []
        manager.start_kernel(env=environ, cwd=cwd, stdout=log, stderr=log)
        client = manager.client()
        assert isinstance(client, BlockingKernelClient)
        self.client = client
        self.ended = False
        try:
            client.start_channels(hb=False)
            self.wait_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The process id of the kernel here, not of where cells run."""
        pid = getattr(self.manager.provisioner, "pid", None)
        assert isinstance(pid, int)
        return pid

    def log_text(self) -> str:
        """What the kernel's own process wrote to its stdout and stderr."""
        return Path(self.log.name).read_text("utf-8", "replace")

    # -- messages ------------------------------------------------------------------------------------------------

    def request(
        self,
        msg_type: str,
        content: dict[str, Any] | None = None,
        *,
        channel: str = "shell",
        subshell: str | None = None,
        metadata: dict[str, Any] | None = None,
        buffers: list[bytes] | None = None,
    ) -> Run:
        """Send any request; does not wait."""
        message = self.client.session.msg(msg_type, content or {}, metadata=metadata)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        if buffers:
            message["buffers"] = buffers
        run = self.runs[message["header"]["msg_id"]] = Run(message["header"]["msg_id"], time.monotonic())
        getattr(self.client, f"{channel}_channel").send(message)
        return run

    def _pump(self, seconds: float) -> bool:
        """Take in what has come, waiting at most ``seconds`` for the first; whether anything had."""
        channels = {
            getattr(self.client, f"{name}_channel").socket: name for name in ("iopub", "stdin", "shell", "control")
        }
        poller = zmq.Poller()
        for socket in channels:
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(seconds * 1000))
        for socket, name in channels.items():
            if socket in ready:
                self._take(name, getattr(self.client, f"{name}_channel").get_msg(timeout=0))
        return bool(ready)

    def _take(self, channel: str, raw: dict[str, Any]) -> None:
        now = time.monotonic()
        run = self.runs.get(raw["parent_header"].get("msg_id", ""))
        message = Message(
            raw["msg_type"],
            raw["content"],
            raw["metadata"],
            raw.get("buffers", []),
            channel,
            now - run.sent if run else 0.0,
        )
        if run is None:
            self.strays.append(message)
            return
        if channel in ("shell", "control"):
            assert run.reply is None, f"a second reply: {message}\n{run}"
            run.reply, run.reply_at = message.content, message.at
            return
        run.messages.append(message)
        if message.type == "status" and message.content["execution_state"] == "idle":
            run.idle_at = message.at

    def wait_for(self, true: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
        """Take in messages until ``true()`` is; AssertionError, with the open runs and the kernel's log, if not."""
        deadline = time.monotonic() + timeout
        while not (value := true()):
            left = deadline - time.monotonic()
            if left <= 0 or (not self._pump(min(left, 0.5)) and not self.manager.is_alive()):
                state = "not in time" if left <= 0 else "the kernel has died"
                under_way = "\n".join(str(run) for run in self.runs.values() if not run.done)
                raise AssertionError(f"{state}: {what}\n{under_way}\nkernel's log:\n{self.log_text()}")
        return value

    def wait(self, run: Run, timeout: float = TIMEOUT) -> Run:
        """Until ``run`` is done; the same run."""
        self.wait_for(lambda: run.done, "the end of the request", timeout)
        return run

    def take_all(self, seconds: float = 0.0) -> None:
        """Take in what is there already, and what comes until nothing does for ``seconds``."""
        while self._pump(seconds):
            pass

    # -- cells ---------------------------------------------------------------------------------------------------

    def submit(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = True,
        stop_on_error: bool = True,
        subshell: str | None = None,
        cell_id: str | None = None,
    ) -> Run:
        """Send a cell; does not wait."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": user_expressions or {},
            "allow_stdin": allow_stdin,
            "stop_on_error": stop_on_error,
        }
        return self.request(
            "execute_request", content, subshell=subshell, metadata={"cellId": cell_id} if cell_id else None
        )

    def execute(self, code: str, *, answers: tuple[str, ...] = (), timeout: float = TIMEOUT, **options: Any) -> Run:
        """Run a cell to its end, typing ``answers`` where it asks."""
        run = self.submit(code, **options)
        for number, answer in enumerate(answers, 1):
            self.wait_for(lambda n=number: len(run.prompts) >= n or run.done, f"prompt {number}", timeout)  # type: ignore[misc]
            assert len(run.prompts) >= number, f"the cell ended without asking\n{run}"
            self.answer_input(answer)
        return self.wait(run, timeout)

    def answer_input(self, text: str) -> None:
        """Type ``text`` at the prompt that stands."""
        self.client.input(text)

    def wait_for_output(self, run: Run, text: str, timeout: float = TIMEOUT) -> Message:
        """Until the streams of ``run`` hold ``text``; the message that completed it.  The cell may still run."""

        def found() -> Message | None:
            so_far = {"stdout": "", "stderr": ""}
            for message in run.of_type("stream"):
                so_far[message.content["name"]] += message.content["text"]
                if text in so_far[message.content["name"]]:
                    return message
            assert not run.done, f"the cell ended without {text!r}\n{run}"
            return None

        message = self.wait_for(found, f"{text!r} in the output", timeout)
        assert isinstance(message, Message)
        return message

    # -- the other requests --------------------------------------------------------------------------------------

    def ask(
        self, msg_type: str, content: dict[str, Any] | None = None, timeout: float = TIMEOUT, **options: Any
    ) -> dict[str, Any]:
        """Send a request and wait; the content of its reply."""
        run = self.wait(self.request(msg_type, content, **options), timeout)
        assert run.reply is not None
        return run.reply

    def complete(self, code: str, position: int | None = None, **options: Any) -> dict[str, Any]:
        """complete_reply; ``position`` in code points, the end by default."""
        cursor = len(code) if position is None else position
        return self.ask("complete_request", {"code": code, "cursor_pos": cursor}, **options)

    def inspect(self, code: str, position: int | None = None, detail: int = 0, **options: Any) -> dict[str, Any]:
        """inspect_reply; ``position`` in code points, the end by default."""
        cursor = len(code) if position is None else position
        return self.ask("inspect_request", {"code": code, "cursor_pos": cursor, "detail_level": detail}, **options)

    def is_complete(self, code: str) -> dict[str, Any]:
        return self.ask("is_complete_request", {"code": code})

    def history(self, **options: Any) -> dict[str, Any]:
        """history_reply; the last ten inputs unless ``options`` say otherwise."""
        return self.ask(
            "history_request", {"hist_access_type": "tail", "n": 10, "output": False, "raw": True, **options}
        )

    def kernel_info(self) -> dict[str, Any]:
        return self.ask("kernel_info_request")

    def usage(self) -> dict[str, Any]:
        """usage_reply: where cells run, and what they use there."""
        return self.ask("usage_request", channel="control")

    # -- its life ------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until the kernel answers and its iopub reaches us: asked again until the answer's idle is heard too."""
        deadline = time.monotonic() + timeout
        while True:
            run = self.request("kernel_info_request")
            with contextlib.suppress(AssertionError):
                self.wait_for(lambda run=run: run.done, "kernel_info", 0.25)  # type: ignore[misc]
                with contextlib.suppress(AssertionError):
                    self.wait_for(self._is_connected, "all channels", 5)
                return
            alive = self.manager.is_alive()
            if not alive or time.monotonic() > deadline:
                raise AssertionError(f"the kernel {'is not ready' if alive else 'has died'}:\n{self.log_text()}")

    def _is_connected(self) -> bool:
        """Whether the kernel has all of our channels, and its manager's own for control.

        Where it was not there yet ZeroMQ tries again later: a descriptor that comes then looks like some test's leak.
        """
        if self.manager.transport != "ipc":
            return True
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        connected = [fields[7] for fields in lines if len(fields) == 8 and fields[5] == "03"]
        expected = {"shell": 1, "iopub": 1, "stdin": 1, "control": 2}
        ports = {name: f"{self.manager.ip}-{getattr(self.manager, f'{name}_port')}" for name in expected}
        return all(connected.count(ports[name]) >= count for name, count in expected.items())

    def interrupt(self) -> None:
        """As the Stop button.  Does not wait."""
        # Not by the manager, which counts its messages apart: their ids would be those of our cells.
        self.request("interrupt_request", {}, channel="control")

    def restart(self, now: bool = False) -> None:
        """As the Restart button; back when the new kernel is ready."""
        self.manager.restart_kernel(now=now)
        for run in self.runs.values():
            run.expects_idle = False  # what was under way has no answer any more
        self.wait_ready()

    def shutdown(self) -> float:
        """Ask the kernel to end; the seconds it took.  AssertionError if asking was not enough."""
        began = time.monotonic()
        self.ended = True
        self.client.stop_channels()
        self.manager.shutdown_wait_time = 20.0  # after half of it: SIGTERM
        self.manager.shutdown_kernel()
        how = self.manager._shutdown_status.name
        assert how == "ShutdownRequest", f"the kernel did not end when asked to ({how}):\n{self.log_text()}"
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL, as a machine that runs out of memory does it; the manager's own way interrupts the cell before."""
        self.ended = True
        self.client.stop_channels()
        os.kill(self.pid, signal.SIGKILL)
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def remote_flame(
    env: dict[str, str | None] | None = None, *, name: str | None = None, cwd: str | Path | None = None, **options: Any
) -> Iterator[Kernel]:
    """A running kernel, shut down at the end; ``env`` goes on top of ours (None removes a name).

    ``options`` are traits of the KernelManager (``transport``, ``transport_encryption`` …).  Its sockets are files
    unless they say otherwise: ports are found long before the kernel takes them, and are free while it is restarted,
    so another test may take them.
    """
    environ = {**os.environ, **(env or {})}
    options = {"transport": "ipc", "connection_file": f"{jupyter_runtime_dir()}/{uuid.uuid4().hex[:8]}.json", **options}
    manager = KernelManager(kernel_name=name or KERNEL_NAME, **options)
    # Open as long as the kernel's manager is: a restart starts the new kernel on the same file.
    with tempfile.NamedTemporaryFile(prefix="kernel-", suffix=".log") as log:
        given = {key: value for key, value in environ.items() if value is not None}
        kernel = Kernel(manager, given, str(cwd) if cwd else None, log)
        try:
            yield kernel
        except BaseException:
            if not kernel.ended:
                kernel.kill()
            raise
        if not kernel.ended:
            kernel.shutdown()
