"""``-t web``: commands on several servers at once. Equal output is shown once.

Exit codes: 0 if all succeeded, 1 if some failed or were not reached, 4 if none was reached.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from ..connect.target import LIGHT, Target, load_target
from ..errors import GroupError
from ..group import folding
from ..group.following import RENEWED, STOP_PATIENCE, Following, Live
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.opening import group
from ..group.results import Results, in_a_line, is_unreachable, told_errors
from ..group.telling import PROGRESS_AFTER, CellOptions, live_line
from ..remote.foreground import in_colour
from ..remote.program import DONE, FAILED
from ..terminal import plain_text

if TYPE_CHECKING:
    from .connecting import Connecting

NONE_REACHED = 4


@contextlib.contextmanager
def opened(command: Connecting, code: str = "", **more: Any) -> Iterator[Group]:
    """The group that ``-t`` names, for a command that runs ``code`` there, if its rails do not hold that back. Its
    sessions end with the command, unless they have a name."""
    given, defaults = command.given(**more)

    def load(where: str, settings: Any) -> Target:
        return load_target(where, config_dir=command.folder, overrides={**settings, **given}, defaults=defaults)

    chosen = group(command.where, load=load, file=command.targets(), confirmed=True)
    try:
        command.hold_group(chosen.members, code or f"jupyter flame {command.title}")
        yield chosen
    finally:
        if given.get("session"):
            chosen.detach()
        else:
            chosen.close()


def cell(
    command: Connecting,
    code: str,
    *,
    as_json: bool,
    program: Mapping[str, Any],
    modules: Sequence[ModuleType] = (),
    **more: Any,
) -> int:
    """Run statements or a script on all; show the output folded, or as a line of JSON each. ``program`` says how each
    runs it. Returns the exit code."""
    with opened(command, code, **more) as chosen:
        following = Following(chosen, CellOptions(raise_error=False), _Quiet() if as_json else Terminal())
        following.begin(code, {}, store_history=False, program=program, modules=modules)
        results = following.wait()
        if as_json:
            for host, output in results.outputs.items():
                line = {"stdout": output.stdout, "stderr": output.stderr, "value": output.value}
                _json(host, results, {**line, "exit_status": output.status}, output.seconds)
        return status(results)


def value(command: Connecting, expression: str, *, as_json: bool) -> int:
    """Show the value of an expression on all: folded, or as a line of JSON each. Returns the exit code."""
    with opened(command, expression) as chosen:
        results = _results(chosen.noblock.evaluate(expression), chosen)
        if as_json:
            for host in results:
                _json(host, results, {"value": results.ok.get(host)}, None)
        else:
            _tell(results.told_answers(), results)
        return status(results)


def files(
    command: Connecting,
    work: Callable[[Any], GroupFuture],
    *,
    quiet: bool,
    told: Mapping[str, Sequence[str]] = MappingProxyType({}),
    before: str = "",
) -> int:
    """Copy to or from all; ``work`` is called with ``group.noblock`` and begins it. ``told`` has further lines to show,
    by host. Returns the exit code."""
    with opened(command, **LIGHT) as chosen:
        results = _results(work(chosen.noblock), chosen)
        if not quiet:
            done = {host: f"{before}{one}" for host, one in results.ok.items() if one is not None}
            shown = {host: "\n".join([*told.get(host, ()), words]) for host, words in done.items()}
            if shown:
                print(plain_text(folding.told(shown, mask=True, total=len(results))))
        _errors(results)
        return status(results)


def status(results: Results) -> int:
    """The exit code for these results."""
    if not results.errors:
        return DONE
    return NONE_REACHED if len(results.unreachable) == len(results) else FAILED


def _results(future: GroupFuture, chosen: Group) -> Results:
    """The results when all are done; meanwhile a terminal shows who is done. Ctrl-C stops the work and is raised."""
    live = Live(Terminal(), chosen, future)
    try:
        while not future.wait(RENEWED):
            if future.elapsed >= PROGRESS_AFTER:
                live.renew()
        return chosen.wait_for(future, tell=False)
    except KeyboardInterrupt:
        future.interrupt()
        future.wait(STOP_PATIENCE)
        raise
    except GroupError as error:
        results: Results = error.results
        return results
    finally:
        live.end()


class Terminal:
    """Shows output on stdout and stderr; in a terminal with colours and bold headlines."""

    def text(self, name: str, text: str) -> None:
        print(_bold(text, name), end="", file=sys.stderr if name == "stderr" else sys.stdout, flush=True)

    def display(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        text = data.get("text/plain")
        if isinstance(text, str):
            print(plain_text(text), flush=True)

    def live(self, words: str, over: bool) -> None:
        live_line(words, over)


class _Quiet(Terminal):
    """Shows who is done, and nothing else."""

    def text(self, name: str, text: str) -> None:
        pass

    def display(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        pass


def _tell(answers: str, results: Results) -> None:
    """Print the answers to stdout, and who failed to stderr."""
    if answers:
        print(_bold(answers))
    _errors(results)


def _errors(results: Results) -> None:
    lines = told_errors(results.errors, len(results), 4)
    if lines:
        print(_bold("\n".join(lines), "stderr"), file=sys.stderr)


def _bold(text: str, name: str = "stdout") -> str:
    """``text`` with bold headlines for a terminal; elsewhere without colours."""
    if not in_colour(name):
        return plain_text(text)
    lines = text.split("\n")
    return "\n".join(f"\x1b[1m{line}\x1b[0m" if line.startswith("── ") else line for line in lines)


def _json(host: str, results: Results, answer: dict[str, Any], seconds: float | None) -> None:
    error = results.errors.get(host)
    state = "ok" if error is None else "unreachable" if is_unreachable(error) else "error"
    line = {"host": host, "status": state, **answer, "error": None if error is None else in_a_line(error)}
    line |= {} if seconds is None else {"seconds": round(seconds, 3)}
    try:
        print(json.dumps(line, allow_nan=False))
    except (TypeError, ValueError):  # a value that JSON cannot represent: send its repr
        print(json.dumps({**line, "value": repr(line.get("value"))}))
