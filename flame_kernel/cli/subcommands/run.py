"""``jupyter flame exec``, ``eval`` and ``run``: run code of this machine on another one, much as ssh does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...commands import rails
from ...errors import CannotConnect, FlameError, RemoteError, TargetError
from ...remote.modules import sendmodule
from ...remote.program import Program
from ...remote.remote import Remote
from ..connecting import Connecting
from ..parser import Parser
from .scripts import decoded, modules_beside

if TYPE_CHECKING:
    from ...old_python.calls import OldPython, Ran


class Running(Connecting):
    """What these commands share."""

    def program(self, remote: Remote) -> Program:
        """The Program that runs code on ``remote``; its session ends with it unless the user named one."""
        return Program(remote, ends=remote.session.target.session is None)

    def on_each(
        self, code: str, as_json: bool, mode: str, name: str = "", words: Sequence[str] = (), **more: Any
    ) -> int:
        """Run ``code`` on each server of a group; returns the exit code."""
        from .. import on_group

        about = {"mode": mode, "name": name, "arguments": list(words), "ends": not self.options.session}
        return on_group.cell(self, code, as_json=as_json, program=about, **more)

    @staticmethod
    def refuse_json(options: argparse.Namespace, other: str = "") -> None:
        """Raise TargetError for ``--json`` with a single server."""
        if options.json:
            raise TargetError(f"--json is for several servers, a line each; name them with -t web1,web2{other}")

    @property
    def plain_shell(self) -> dict[str, Any]:
        """Settings for a script or an expression: no IPython, unless the user names a session or a shell."""
        return {} if self.options.shell or self.options.session else {"shell": "mini"}


SEVERAL = "; or several: a group, web1,web2, pi-*, all"


class Exec(Running):
    """Runs statements."""

    title = "exec"
    several = SEVERAL
    about = """
        Run statements on the server, and show what they print; a last expression is shown as by a cell.

        Without CODE, or with -, it is read from stdin. Ctrl-C stops it there. The exit code is 0, 1 for an error,
        130 after Ctrl-C, or what sys.exit was given.
        """
    typed = """
        jupyter flame exec -t gpu-box "import torch; torch.cuda.is_available()"
        jupyter flame exec -t gpu-box --session train "print(len(history))"
        jupyter flame exec -t gpu-box < setup.py
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("code", nargs="*", metavar="CODE", help="statements; - or none: from stdin")
        parser.add_argument("--json", action="store_true", help="with several servers: a line of JSON each")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        code = _code(options.code)
        if self.is_group:
            return self.on_each(code, options.json, "cell")
        self.refuse_json(options, ", or use eval")
        try:
            with self.remote() as remote:
                rails.hold(remote.session, code)
                return self.program(remote).execute(_for_shell(remote, code))
        except CannotConnect as e:
            with self.old_python(e) as old:
                return _shown(old.run(code))


class Eval(Running):
    """Prints the value of an expression."""

    title = "eval"
    several = SEVERAL
    about = """
        Print the value of an expression on the server: its repr, or JSON.

        Without EXPRESSION, or with -, it is read from stdin.
        """
    typed = """
        jupyter flame eval -t gpu-box "__import__('os').cpu_count()"
        jupyter flame eval -t gpu-box --session train --json "history[-1]" | jq .loss
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("code", nargs="*", metavar="EXPRESSION", help="- or none: from stdin")
        parser.add_argument("--json", action="store_true", help="the value as JSON; it must be plain")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        code = _code(options.code).strip()
        if not code:
            raise TargetError("there is no expression; write one, such as 6*7")
        if self.is_group:
            from .. import on_group

            return on_group.value(self, code, as_json=options.json)
        try:
            with self.remote(**self.plain_shell) as remote:
                if not options.json:
                    rails.hold(remote.session, code)
                    return self.program(remote).execute(code, "expression")
                value = _evaluated(remote, code)
        except CannotConnect as e:
            with self.old_python(e) as old:
                return _old_value(old, code, options.json)
        try:
            print(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as e:
            raise TargetError(f"the value cannot be JSON: {e}; leave out --json, or make it plain") from None
        return None


class Run(Running):
    """Runs a script or a notebook."""

    title = "run"
    writes = True
    several = SEVERAL
    takes_all: ClassVar[bool] = True
    about = """
        Run a script of this machine on the server, as `ssh there python FILE ARGUMENTS` would: its stdin, stdout and
        stderr are those of this command, its exit status too, and Ctrl-C stops it there (130). The modules and
        packages that it imports from its folder are sent along, into memory, and reach its worker processes, too
        (multiprocessing, whatever its start method); --hot serves those of another folder. With --session its variables
        are kept.

        With -t GROUP (or web1,web2, pi-*, all) it runs on each server, with an empty stdin, and equal output is shown
        once; the exit code is 0, 1 where it failed somewhere, and 4 where none was reached.

        A notebook is run by nbclient, its kernel on the server; the options behind it are:
          -o FILE, --output FILE   where to write it with its outputs, also when a cell fails
          --inplace                write it back into the same file
          -p NAME=VALUE            set a variable in it, like papermill's parameters
          --allow-errors           go on after a cell that fails
          --timeout S              seconds that a cell may take
        On several servers each has a notebook of its own in -o FOLDER; --failed runs those again that failed there.
        """
    typed = """
        jupyter flame run -t gpu-box train.py --epochs 3 < data.csv > log.txt
        jupyter flame run -t gpu-box --session train train.py
        jupyter flame run -t gpu-box --hot src scripts/train.py
        jupyter flame run -t gpu-box report.ipynb -o report-done.ipynb
        jupyter flame run -t web check.py --quick
        jupyter flame run -t web report.ipynb -p alpha=1 -o out/
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("file", metavar="FILE", help="a script or a notebook of this machine; -: a script on stdin")
        rest = parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="for the script")
        rest.required = False  # Python 3.12 and older say that it is required where FILE is missing
        parser.add_argument("--json", action="store_true", help="with several servers: a line of JSON each")
        parser.add_argument(
            "--hot",
            metavar="FOLDER",
            action="append",
            default=[],
            help="modules of this folder can be imported there; repeatable",
        )
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        if options.hot and (options.file.endswith(".ipynb") or self.is_group):
            raise TargetError('--hot is for a script on one server; in a target it is hot = ["src"], for all uses')
        if options.file.endswith(".ipynb"):
            from . import notebook  # Jupyter's client takes long to load

            return notebook.run(self, options.file, options.arguments)
        path = Path(options.file).expanduser()
        source = _read(path) if options.file != "-" else _stdin()
        if self.is_group:
            modules = modules_beside(path, source) if options.file != "-" else ()
            more = {"modules": modules, **self.plain_shell}
            return self.on_each(source, options.json, "script", path.name, options.arguments, **more)
        self.refuse_json(options)
        with self.remote(**self.plain_shell) as remote:
            rails.hold(remote.session, source)
            for module in modules_beside(path, source) if options.file != "-" else ():
                sendmodule(remote.session, module)
            if options.hot:
                remote.hot(*options.hot)
            return self.program(remote).execute(source, "script", path.name, options.arguments)


def _shown(ran: Ran) -> int:
    ran.show()
    if ran.raised is not None:
        print(ran.raised.traceback, end="", file=sys.stderr)
    return ran.code


def _old_value(old: OldPython, code: str, as_json: bool) -> int:
    if not as_json:
        return _shown(old.run(code, expression=True))
    try:
        print(json.dumps(old.evaluate(code), allow_nan=False))
    except (RemoteError, TypeError, ValueError) as e:
        raise TargetError(f"the value cannot be JSON: {e}") from None
    return 0


def _evaluated(remote: Remote, expression: str) -> Any:
    """The value of the user's expression on the far side; an exception there becomes one of ours."""
    try:
        return remote.evaluate(expression)
    except RemoteError as e:
        raise TargetError(f"{e.ename}: {e.evalue}".splitlines()[0]) from e
    except FlameError:
        raise
    except Exception as e:  # the far side's code may raise anything
        raise TargetError((str(e) or type(e).__name__).splitlines()[0]) from e


def _for_shell(remote: Remote, code: str) -> str:
    """``code`` for the far side's shell: if that has no IPython, magics and ``!cmd`` become function calls."""
    if remote.session.ready.result().get("shell") != "mini" or not any(sign in code for sign in "%!?"):
        return code
    from ...commands.cell_text import Source  # IPython's transformations take long to load

    return Source().as_python(code)


def _read(path: Path) -> str:
    try:
        return decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError, SyntaxError) as e:  # SyntaxError: of its coding line
        raise TargetError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}; name a script here") from None


def _stdin() -> str:
    """The script on stdin."""
    try:
        return decoded(sys.stdin.buffer.read())
    except (UnicodeDecodeError, SyntaxError) as e:
        raise TargetError(f"cannot read the script on stdin: {e}") from None


def _code(words: list[str]) -> str:
    if words and words != ["-"]:
        return " ".join(words)
    if sys.stdin.isatty():
        print("code from the terminal, to Ctrl-D:", file=sys.stderr)
    return sys.stdin.read()
