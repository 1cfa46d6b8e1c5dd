"""Runs a cell on many hosts; equal output is shown once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any

from ..errors import FlameError, RemoteError
from ..remote.exceptions import raised_there
from ..remote.remote import Remote
from ..terminal import plain_text
from . import folding
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
        lines = [self.told_output(diff=diff, mask=mask), *told_errors(self.errors, len(self), WHOLE)]
        return "\n".join(line for line in lines if line)

    def __repr__(self) -> str:
        return self.told()

    def _repr_html_(self) -> None:  # type: ignore[override]
        """Not HTML: notebooks show the text."""
        return None


def run_cell(
    remote: Remote, code: str, output: HostOutput, *, silent: bool = False, store_history: bool = True
) -> HostOutput:
    """Run a cell, collect its output in ``output``, and return that.

    Raises what the cell raised, as RemoteError, and FlameError if its reply never comes.
    """
    begun = time.monotonic()
    output.state = "running"
    try:
        reply = remote.cell(code, output.sink(remote), silent=silent, store_history=store_history).result()
        if output.raised is None and reply.get("status") not in ("ok", None):
            output.raised = raised_there({**reply, "bases": [reply.get("ename")]}, {})
        if output.raised is not None:
            raise output.raised
        output.state = "done"
        return output
    except CancelledError as error:
        raise FlameError(f"the cell was taken back before it ran at {remote.name}") from error
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
