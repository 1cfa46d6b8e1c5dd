"""Runs a cell on many hosts; equal output is shown once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from ..commands import library_rails as rails
from ..commands.cell_text import Source
from ..errors import FlameError, RemoteError
from ..remote.exceptions import raised_there
from ..remote.remote import Remote
from ..security.rendering import Rendering
from ..terminal import plain_text
from . import folding
from .member import Begun
from .output import HostOutput
from .results import WHOLE, Results, told_errors


class CellResults(Results):
    """The results of a cell: each host's answer is a `HostOutput`. ``outputs`` also has those of hosts that failed."""

    def __init__(
        self,
        outputs: Mapping[str, HostOutput],
        hosts: tuple[str, ...],
        ok: Mapping[str, Any],
        errors: Mapping[str, Exception],
        elapsed: float,
    ) -> None:
        super().__init__(hosts, ok, errors, elapsed)
        self.outputs = dict(outputs)

    def told_output(self, *, diff: bool = True, mask: bool = False) -> str:
        """The text output of all hosts, equal texts only once."""
        asked = [host for host in self if host in self.ok or self.outputs[host].text]
        texts = {host: self.outputs[host].text for host in asked}
        return plain_text(folding.told(texts, diff=diff, mask=mask, total=len(self)))

    def told(self, *, diff: bool = True, mask: bool = False) -> str:
        """The text output and the errors of all hosts, equal ones only once; four errors with traceback."""
        lines = [self.told_output(diff=diff, mask=mask), *told_errors(self.errors, len(self), WHOLE, mask)]
        return "\n".join(line for line in lines if line)

    def __repr__(self) -> str:
        return self.told()

    def _repr_html_(self) -> None:  # type: ignore[override]
        """Not HTML: notebooks show the text."""
        return None


def begin_cell(
    remote: Remote,
    code: str,
    output: HostOutput,
    rendering: Rendering,
    *,
    silent: bool = False,
    store_history: bool = True,
    program: Mapping[str, Any] | None = None,
    count: int | None = None,
) -> Begun:
    """Begin a cell and collect its output in ``output``, which is the value; ``rendering`` filters it.

    ``program`` says how it runs as a program, with an empty stdin; in the mode ``cell`` it is a cell with an exit
    status.  ``count`` is its number here.  ``Begun.value()`` raises what the cell raised, as RemoteError, and
    FlameError if its reply never comes.
    """
    begun = time.monotonic()
    output.state = "running"
    rails.hold(remote.session, code)
    about = {"allow_stdin": True, "silent": silent, "store_history": store_history, "count": count, "held": True}
    if program is None or program["mode"] == "cell":
        future = remote.cell(_for_shell(remote, code), output.sink(remote, rendering), **about)  # type: ignore[arg-type]
    else:
        request_id = uuid.uuid4().hex
        how = {"name": "", "arguments": [], **program, "stdin": True}
        more = {"request_id": request_id, "program": how, **about}
        future = remote.cell(code, output.sink(remote, rendering), **more)  # type: ignore[arg-type]
        remote.session.request("stdin", buffers=[], of=request_id, end=True)
    return Begun(future, partial(_ended, remote, future, output, program is not None, begun))


def _ended(remote: Remote, future: Future[Any], output: HostOutput, is_program: bool, begun: float) -> HostOutput:
    """Wait for the reply of a cell that began at ``begun``, and complete its output."""
    try:
        reply = future.result()
        output.pages(reply.get("payload"))
        if output.raised is None and reply.get("status") not in ("ok", None):
            output.raised = raised_there({**reply, "bases": [reply.get("ename")]}, {})
        if is_program:
            output.exited(reply.get("exit_status"))
        if output.raised is not None:
            raise output.raised
        output.state = "done"
        return output
    except CancelledError as error:
        raise FlameError(f"the cell was cancelled before it ran at {remote.name}") from error
    except RemoteError:
        output.state = (
            "stopped" if output.raised is not None and output.raised.ename == "KeyboardInterrupt" else "failed"
        )
        raise
    except FlameError:
        output.state = "lost"
        raise
    finally:
        output.seconds = time.monotonic() - begun


def _for_shell(remote: Remote, code: str) -> str:
    """``code`` in the form for that far side's shell: without IPython, magics and ``!cmd`` become calls."""
    if not any(sign in code for sign in "%!?") or remote.session.ready.result().get("shell") != "mini":
        return code
    return Source().as_python(code)
