"""``-t web``: commands on several servers at once; what they show told once where they agree.

Exit codes: 0 where all did it, 1 where some failed or were not reached, 4 where none was reached.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..connect.target import Target, load_target
from ..errors import GroupError
from ..group import folding
from ..group.cell import CellResults
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.opening import group
from ..group.results import Results, in_a_line, is_unreachable, told_errors
from ..remote.foreground import in_colour
from ..remote.program import DONE, FAILED
from ..terminal import plain_text

if TYPE_CHECKING:
    from .connecting import Connecting

NONE_REACHED = 4


@contextlib.contextmanager
def opened(command: Connecting, **more: Any) -> Iterator[Group]:
    """The group that ``-t`` names, its sessions ended at the end; those with a name are left alive."""
    given, defaults = command.given(**more)

    def load(where: str, settings: Any) -> Target:
        return load_target(where, config_dir=command.folder, overrides={**settings, **given}, defaults=defaults)

    chosen = group(command.where, load=load, file=command.targets())
    try:
        yield chosen
    finally:
        if given.get("session"):
            chosen.detach()
        else:
            chosen.close()


def cell(command: Connecting, code: str, *, as_json: bool) -> int:
    """Run statements on all; their output, folded or a line of JSON each."""
    with opened(command) as chosen:
        results = _results(chosen.noblock.cell(code, store_history=False), chosen)
        assert isinstance(results, CellResults)
        if as_json:
            for host, output in results.outputs.items():
                line = {"stdout": output.stdout, "stderr": output.stderr, "value": output.value}
                _json(host, results, line, output.seconds)
        else:
            _tell(results.told_output(), results)
        return status(results)


def value(command: Connecting, expression: str, *, as_json: bool) -> int:
    """The value of an expression on all; folded, or a line of JSON each."""
    with opened(command) as chosen:
        results = _results(chosen.noblock.evaluate(expression), chosen)
        if as_json:
            for host in results:
                _json(host, results, {"value": results.ok.get(host)}, None)
        else:
            _tell(results.told_answers(), results)
        return status(results)


def files(command: Connecting, work: Callable[[Any], GroupFuture], *, quiet: bool) -> int:
    """Copy to or from all; ``work`` begins it with ``group.noblock``."""
    with opened(command, place="process", shell="mini") as chosen:
        results = _results(work(chosen.noblock), chosen)
        if not quiet:
            done = {host: str(one) for host, one in results.ok.items() if one is not None}
            print(plain_text(folding.told(done, mask=True, total=len(results))))
        _errors(results)
        return status(results)


def status(results: Results) -> int:
    """The exit code for these results."""
    if not results.errors:
        return DONE
    return NONE_REACHED if len(results.unreachable) == len(results) else FAILED


def _results(future: GroupFuture, chosen: Group) -> Results:
    """All that is there when all are done; Ctrl-C stops them, and is raised."""
    try:
        return chosen.wait_for(future, tell=False)
    except GroupError as error:
        results: Results = error.results
        return results


def _tell(answers: str, results: Results) -> None:
    """The answers to stdout, and to stderr who failed."""
    if answers:
        print(_bold(answers))
    _errors(results)


def _errors(results: Results) -> None:
    lines = told_errors(results.errors, len(results), 4)
    if lines:
        print(_bold("\n".join(lines), "stderr"), file=sys.stderr)


def _bold(text: str, name: str = "stdout") -> str:
    """The headlines bold, in a terminal."""
    if not in_colour(name):
        return text
    return "\n".join(f"\x1b[1m{line}\x1b[0m" if line.startswith("── ") else line for line in text.splitlines())


def _json(host: str, results: Results, answer: dict[str, Any], seconds: float | None) -> None:
    error = results.errors.get(host)
    state = "ok" if error is None else "unreachable" if is_unreachable(error) else "error"
    line = {"host": host, "status": state, **answer, "error": None if error is None else in_a_line(error)}
    line |= {} if seconds is None else {"seconds": round(seconds, 3)}
    try:
        print(json.dumps(line, allow_nan=False))
    except (TypeError, ValueError):  # what JSON does not know, as Python writes it
        print(json.dumps({**line, "value": repr(line.get("value"))}))
