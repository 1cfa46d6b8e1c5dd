"""A front end's debugger, as JupyterLab's: debug requests on the control channel, debug events on iopub.

with front(kernel) as debugger:
    debugger.breakpoints(code, 2)
    run = debugger.run_to_stop(code)
    assert debugger.stack()[0] == ("f", 2)
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from kernels import Kernel, Message, Run


class Front:
    """The debugger of one front end; ``request`` for any request, the rest for what is asked often."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._seq = itertools.count(1)

    def send(self, command: str, **arguments: Any) -> Run:
        """Send a request; does not wait."""
        content = {"type": "request", "seq": next(self._seq), "command": command, "arguments": arguments}
        return self.kernel.request("debug_request", content, channel="control")

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The response, whatever it says."""
        run = self.kernel.wait(self.send(command, **arguments))
        assert run.reply is not None
        assert (run.reply["type"], run.reply["command"]) == ("response", command)
        return run.reply

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The body of a response, which must be a success."""
        reply = self.request(command, **arguments)
        assert reply["success"], reply
        return dict(reply.get("body") or {})

    def start(self) -> None:
        self.ask("initialize", clientID="tests", adapterID="", linesStartAt1=True, pathFormat="path")
        self.ask("attach")

    def events(self, kind: str) -> list[Message]:
        """The debug events so far, of whichever request."""
        messages = [message for run in self.kernel.runs.values() for message in run.messages] + self.kernel.strays
        return [one for one in messages if one.type == "debug_event" and one.content["event"] == kind]

    def file(self, code: str) -> str:
        """The file name of a cell of this text."""
        return str(self.ask("dumpCell", code=code)["sourcePath"])

    def breakpoints(self, code: str, *lines: int, **more: Any) -> str:
        """Set the breakpoints of a cell; its file name."""
        path = self.file(code)
        self.set_breakpoints(path, *lines, **more)
        return path

    def set_breakpoints(self, path: str, *lines: int, **more: Any) -> None:
        wanted = [{"line": line, **more} for line in lines]
        found = self.ask("setBreakpoints", source={"path": path}, breakpoints=wanted, sourceModified=False)
        assert [one["verified"] for one in found["breakpoints"]] == [True] * len(lines), found

    def run_to_stop(self, code: str, **options: Any) -> Run:
        """Run a cell until it is stopped; AssertionError if it ends before."""
        stops = len(self.events("stopped"))
        run = self.kernel.submit(code, **options)
        self.wait_stopped(run, stops)
        return run

    def wait_stopped(self, run: Run, stops: int) -> None:
        """Until there are more than ``stops`` stops."""
        self.kernel.wait_for(lambda: len(self.events("stopped")) > stops or run.done, "a stop")
        assert len(self.events("stopped")) > stops, f"the cell ended\n{run}"

    def step(self, run: Run, how: str = "next") -> None:
        """Step to the next stop."""
        stops = len(self.events("stopped"))
        self.ask(how, threadId=1)
        self.wait_stopped(run, stops)

    def go_on(self, run: Run) -> Run:
        """Continue to the cell's end."""
        self.ask("continue", threadId=1)
        return self.kernel.wait(run)

    def frames(self, thread: int = 1) -> list[dict[str, Any]]:
        return list(self.ask("stackTrace", threadId=thread)["stackFrames"])

    def stack(self, thread: int = 1) -> list[tuple[str, int]]:
        """Name and line of each frame, the innermost first."""
        return [(frame["name"], frame["line"]) for frame in self.frames(thread)]

    def variables(self, scope: str = "Locals") -> dict[str, str]:
        """Names and values of the innermost frame."""
        scopes = self.ask("scopes", frameId=self.frames()[0]["id"])["scopes"]
        reference = next(one["variablesReference"] for one in scopes if one["name"] == scope)
        return {one["name"]: one["value"] for one in self.ask("variables", variablesReference=reference)["variables"]}


@contextlib.contextmanager
def front(kernel: Kernel) -> Iterator[Front]:
    """A debugger that is started, and ended at the end."""
    debugger = Front(kernel)
    debugger.start()
    yield debugger
    debugger.ask("disconnect", restart=False, terminateDebuggee=True)
