"""The subcommands of ``%flame``, each a method with its arguments declared as IPython's magics have them.

Their descriptions are what ``%flame help NAME`` shows. A method takes the parsed arguments; what it returns is the
line's value.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument, kwds, magic_arguments

from ..commands import monitor
from ..commands.doctor import bundle, examine, of_target
from ..commands.language import every, watched
from ..commands.options import OPTIONS, protection
from ..commands.status import status
from ..commands.tables import aligned
from ..connect.keys import Ask
from ..connect.target import PLACES, SHELLS, load_target
from ..errors import FlameError, TargetError
from ..remote.remote import Remote
from ..security.terminal import clean
from ..session.agent_client import Visitor
from ..session.session import Session
from ..session.user import ask_line
from .arguments import assignments, call_of, evaluated, exact, local_value, script, split_raw, unquoted, usage, words_of
from .cells import Cells
from .connections import Connections, identifier, in_thread
from .jobs import table

# The words that people know from elsewhere.
ALIASES = {"add": "connect", "info": "status", "delete": "disconnect"}

# Subcommands whose arguments are code: what follows their options is taken as it stands.
RAW = frozenset({"eval", "exec", "push", "run", "watch"})
# For var_expand, which looks for names in the frame of its caller as well: ours has a `name` and a `line` of its own.
_NO_FRAME = 1_000_000
# Those in whose line {name} and $name stand for variables of the notebook, as in other magics.
EXPANDED = frozenset({"connect", "use", "disconnect", "put", "get", "sendmodule", "getmodule"})


def protected(method: Any) -> Any:
    """Declare the options that say how the way to a server is protected."""
    for flag, about in reversed(OPTIONS):
        method = argument(flag, **about)(method)
    return method


on_target = argument("-t", "--target", metavar="TARGET", help="the connection's name; without it the current one")


def command(name: str) -> Callable[[Any], Any]:
    """Mark a method as the subcommand ``name``; its parser is made of the decorators below this one."""

    def mark(method: Any) -> Any:
        return exact(magic_arguments(f"flame {name}")(method))

    return mark


class Commands:
    """What ``%flame`` can do for one IPython shell."""

    def __init__(self, shell: Any, connections: Connections, cells: Cells) -> None:
        self._shell = shell
        self._connections = connections
        self._cells = cells
        self._views = monitor.Views()

    @classmethod
    def names(cls) -> list[str]:
        """The subcommands, in the order of their help."""
        return [name.removeprefix("do_") for name in vars(cls) if name.startswith("do_")]

    @classmethod
    def parser(cls, name: str) -> argparse.ArgumentParser:
        """The argument parser of a subcommand."""
        parser: argparse.ArgumentParser = getattr(cls, f"do_{name}").parser
        return parser

    @classmethod
    def summary(cls) -> str:
        """One line for each subcommand."""
        rows = []
        for name in cls.names():
            parser = cls.parser(name)
            rows.append((f"%flame {name}", str(parser.description).strip().splitlines()[0]))
        return "\n".join(aligned(rows))

    def run(self, line: str) -> Any:
        """Carry out one line, without the ``%flame``; its value."""
        word, _, rest = line.strip().partition(" ")
        name = ALIASES.get(word, word)
        if name not in self.names():
            raise UsageError(f"there is no %flame {word}; there are {', '.join(self.names())} (%flame help)")
        if name in EXPANDED:
            rest = self._shell.var_expand(rest, depth=_NO_FRAME)
        args = self._parse(name, rest.strip())
        return getattr(self, f"do_{name}")(args)

    def _parse(self, name: str, rest: str) -> argparse.Namespace:
        parser = self.parser(name)
        code: list[str] = []
        if name in RAW:
            rest, text = split_raw(rest)
            code = [text] if text else []
        try:
            args: argparse.Namespace = parser.parse_argstring(rest)  # type: ignore[attr-defined]
        except UsageError as e:
            raise UsageError(f"{e}; usage: {usage(parser)}") from None
        except ValueError as e:  # quotes that are not closed
            raise UsageError(f"%flame {name} cannot be read: {e}; usage: {usage(parser)}") from None
        if name in RAW:
            if not code:
                raise UsageError(f"%flame {name} needs something to work on; usage: {usage(parser)}")
            args.code = code[0]
        return args

    def close(self) -> None:
        """End what is shown live."""
        self._views.end()

    def _remote(self, args: argparse.Namespace) -> Remote:
        return self._connections.pick(args.target)[1]

    # -- connections -------------------------------------------------------------------------------------------------

    @command("connect")
    @kwds(description="Connect to a Flame server, and make it the current one.")
    @argument(
        "where", nargs="?", metavar="WHERE", help="host:port, ./u:socket, ns:NAME or a target; none: as configured"
    )
    @argument("--as", dest="alias", metavar="NAME", help="a name for it, also of a variable that is bound to it here")
    @argument("--key-file", metavar="FILE", help="a file of mode 0600 with the server's key; without it you are asked")
    @argument("--key", metavar="KEY", help="the key itself, for all to see who see the cell; better leave it out")
    @argument("--place", choices=PLACES, metavar="PLACE", help="where cells run there: auto, process, child, main")
    @argument("--session", metavar="NAME", help="a name under which the session can be found again")
    @argument("--shell", choices=SHELLS, metavar="SHELL", help="auto, ipython or mini (without IPython)")
    @argument("--timeout", type=float, metavar="S", help="seconds that connecting may take")
    @argument("--trust", action="store_true", help="take objects as pickles, which can run code here")
    @protected
    def do_connect(self, args: argparse.Namespace) -> None:
        if args.alias is not None:
            identifier(args.alias)
        options = {
            name: value
            for name in ("key", "key_file", "place", "session", "shell", "timeout", "trust")
            if (value := getattr(args, name)) not in (None, False)
        }
        options |= protection(vars(args))
        name, remote, new = self._connections.connect(args.where, args.alias, options, ask_line)
        if new:
            self._cells.adopt(remote)
        for warning in remote.target.cautions() if new else ():
            print(f"Warning: {clean(warning)}", file=sys.stderr)
        if args.alias is not None:
            self._shell.user_ns[args.alias] = remote
        print(f"{name}: {'' if new else 'connected already, '}{where(remote)}")

    @command("use")
    @kwds(description="Make another connection the current one.")
    @argument("name", metavar="NAME", help="its name, or its host:port")
    def do_use(self, args: argparse.Namespace) -> None:
        name = self._connections.use(args.name)
        print(f"{name} is the current connection")

    @command("status")
    @kwds(description="Say where cells run, for each connection; * marks the current one.")
    @argument("name", nargs="?", metavar="NAME", help="only this one")
    def do_status(self, args: argparse.Namespace) -> None:
        if args.name is not None:
            name, remote = self._connections.pick(args.name)
            print(f"{name}: {where(remote)}")
            return
        if not self._connections.items():
            print("not connected; begin with %flame connect HOST:PORT, or without HOST:PORT for a try")
        for name, remote in self._connections.items():
            print(f"{'*' if name == self._connections.current else ' '} {name}: {where(remote)}")

    @command("doctor")
    @kwds(description="Why can I not connect? Checks the way to a server and what is there, each fault with its cure.")
    @argument("where", nargs="?", metavar="WHERE", help="as for connect; none: the current connection's server")
    @argument("--key-file", metavar="FILE", help="a file of mode 0600 with the server's key")
    @protected
    def do_doctor(self, args: argparse.Namespace) -> None:
        given = ({"key_file": args.key_file} if args.key_file else {}) | protection(vars(args))

        def checks(ask: Ask) -> dict[str, str]:
            known = dict(self._connections.items())
            name = args.where or (None if given else self._connections.current)
            try:
                target = known[name].target if name in known else load_target(name, overrides=given, ask=ask)
            except TargetError as error:
                return bundle([of_target(error)])
            return bundle(examine(target))

        self._shell.display_pub.publish(in_thread(checks, ask_line, undo=lambda shown: None))

    @command("disconnect")
    @kwds(description="End a connection, with its session there.")
    @argument("name", nargs="?", metavar="NAME", help="its name; without it the current one")
    @argument("--all", action="store_true", help="all of them")
    @argument("--keep", action="store_true", help="let the session live on there, to be taken up by its name")
    def do_disconnect(self, args: argparse.Namespace) -> None:
        for name in self._connections.names if args.all else [args.name]:
            gone = self._connections.disconnect(name, args.keep)
            print(f"{gone}: disconnected")

    @command("sessions")
    @kwds(description="List the sessions that live on a server.")
    @on_target
    @argument("--kill", metavar="NAME", help="end this one, with all it runs")
    def do_sessions(self, args: argparse.Namespace) -> None:
        remote = self._remote(args)
        if args.kill is not None:
            self._kill(remote, args.kill)
            return
        rows: list[tuple[str, ...]] = [("session", "place", "client", "pid", "state", "age", "waiting")]
        for one in remote.session.sessions().result():
            own = " (this one)" if one.get("session") == remote.session.session_id else ""
            age = f"{float(one.get('age') or 0):.0f} s"
            waiting = f"{one.get('waiting') or 0} bytes"
            rows.append((f"{one.get('session')}{own}", *(str(one.get(k) or "-") for k in rows[0][1:5]), age, waiting))
        print(clean("\n".join(aligned(rows))))

    def _kill(self, remote: Remote, name: str) -> None:
        if name == remote.session.session_id:
            raise FlameError(f"{name} is the session of this connection; %flame disconnect ends it")
        with contextlib.closing(Visitor(remote.target)) as visitor:
            ended = visitor.kill(name)
        if not ended:
            raise FlameError(f"there is no session {name!r} there; %flame sessions lists them")
        print(f"session {name} is ended")

    # -- looking in ----------------------------------------------------------------------------------------------------

    @command("where")
    @kwds(description="Show where the cell there is, with its source lines; nothing is stopped.")
    @on_target
    @argument("--all", action="store_true", help="of every thread and task")
    @argument("--every", metavar="S", help="again every S seconds, in the same output")
    @argument("--end", action="store_true", help="end that")
    def do_where(self, args: argparse.Namespace) -> None:
        self._look("where", args, lambda session: monitor.where(session, args.all, monitor.ALL))

    @command("watch")
    @kwds(description="Show the value of an expression there, again and again: %flame watch EXPRESSION --every 2.")
    @on_target
    @argument("code", nargs="*", metavar="EXPRESSION", help="taken as it stands; without one, with --end: all")
    @argument("--every", metavar="S", help="seconds between two looks; 2 without it")
    @argument("--end", action="store_true", help="end it; a Stop does not, nor does the end of a cell")
    def do_watch(self, args: argparse.Namespace) -> None:
        options = argparse.Namespace(target=args.target, **watched(args.code))
        self._look("watch", options, lambda session: "")

    @command("top")
    @kwds(description="Show what the far side uses: CPU, memory, threads, subprocesses, open files.")
    @on_target
    @argument("--every", metavar="S", help="again every S seconds, in the same output")
    @argument("--end", action="store_true", help="end that")
    def do_top(self, args: argparse.Namespace) -> None:
        self._look("top", args, monitor.top)

    def _look(self, kind: str, args: argparse.Namespace, once: Callable[[Session], str]) -> None:
        expression = getattr(args, "expression", "")
        if args.end:
            print(self._views.end_in_words(kind, expression))
            return
        session = self._remote(args).session
        seconds = every(args.every) if isinstance(args.every, str) else args.every
        if seconds is None:
            print(once(session))
            return
        show, is_live = self._cells.screen(self._remote(args))
        view = self._views.begin(
            session, kind, show, seconds, expression=expression, everything=getattr(args, "all", False)
        )
        try:
            view.shown.wait() if is_live else view.wait()
        except KeyboardInterrupt:
            if is_live:
                raise
            view.end()  # at a terminal, where nothing is renewed behind the prompt, Ctrl-C is its end

    # -- code --------------------------------------------------------------------------------------------------------

    @command("eval")
    @kwds(description="The value of an expression there: %flame eval EXPRESSION, or x = %flame eval EXPRESSION.")
    @on_target
    @argument("code", nargs="*", metavar="EXPRESSION", help="taken as it stands, to the line's end")
    def do_eval(self, args: argparse.Namespace) -> Any:
        value = self._remote(args).evaluate(args.code.rstrip(";"))
        return None if args.code.endswith(";") else value

    @command("exec")
    @kwds(description="Run statements there: %flame exec STATEMENTS; a last expression is shown as by a cell.")
    @on_target
    @argument("code", nargs="*", metavar="STATEMENTS", help="taken as they stand, to the line's end")
    def do_exec(self, args: argparse.Namespace) -> None:
        name, remote = self._connections.pick(args.target)
        self._cells.follow(name, remote, args.code)

    @command("run")
    @kwds(
        description="Run a local script there, or a local function: %flame run FILE [ARGUMENT]…, %flame run f(1, x=2)."
    )
    @on_target
    @argument("code", nargs="*", metavar="FILE", help="a script of this machine and its arguments, or a call")
    def do_run(self, args: argparse.Namespace) -> Any:
        name, remote = self._connections.pick(args.target)
        call = call_of(args.code)
        if call is not None:
            function, arguments, named = evaluated(call, self._shell.ev)
            return remote.run(function, *arguments, **named)
        file, *arguments = words_of(args.code)
        path = Path(file).expanduser()
        try:
            source = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or e
            raise FlameError(f"cannot read {file}: {reason}; %flame run takes a script of this machine") from None
        self._cells.follow(name, remote, script(source, path.name, arguments), hide="_flame_script")
        return None

    # -- names -------------------------------------------------------------------------------------------------------

    @command("module")
    @kwds(description="Bind a module of the far side here: %flame module numpy as rnp.")
    @on_target
    @argument("name", metavar="MODULE", help="its name there, dotted or not")
    @argument("alias", nargs="*", metavar="as NAME", help="the name here; without it the last part of the module's")
    def do_module(self, args: argparse.Namespace) -> None:
        self._bind(args, "module")

    @command("builtin")
    @kwds(description="Bind a builtin of the far side here: %flame builtin open as ropen.")
    @on_target
    @argument("name", metavar="BUILTIN", help="its name there")
    @argument("alias", nargs="*", metavar="as NAME", help="the name here; without it the same")
    def do_builtin(self, args: argparse.Namespace) -> None:
        self._bind(args, "builtin")

    def _bind(self, args: argparse.Namespace, kind: str) -> None:
        if args.alias and (len(args.alias) != 2 or args.alias[0] != "as"):
            raise UsageError(f"write %flame {kind} {args.name} as NAME")
        for part in args.name.split("."):
            identifier(part, kind)
        here = identifier(args.alias[1] if args.alias else args.name.rpartition(".")[2])
        self._shell.user_ns[here] = getattr(self._remote(args), kind)(args.name)

    @command("push")
    @kwds(description="Send variables there: %flame push a b=EXPRESSION.")
    @on_target
    @argument("code", nargs="*", metavar="NAME[=EXPRESSION]", help="a variable of this notebook, or a new name there")
    def do_push(self, args: argparse.Namespace) -> None:
        remote = self._remote(args)
        values = {}
        for name, expression in assignments(args.code):
            if expression is None and name not in self._shell.user_ns:
                raise FlameError(f"there is no variable {name!r} here; %flame push NAME or NAME=EXPRESSION")
            values[name] = self._shell.user_ns[name] if expression is None else local_value(expression, self._shell.ev)
        remote.push(values)

    @command("pull")
    @kwds(description="Fetch variables: %flame pull x y.")
    @on_target
    @argument("names", nargs="+", metavar="NAME", help="a variable of the far side, bound here by the same name")
    def do_pull(self, args: argparse.Namespace) -> None:
        for name in args.names:
            identifier(name, "variable")
        self._shell.user_ns.update(self._remote(args).pull(args.names))

    # -- files -------------------------------------------------------------------------------------------------------

    @command("put")
    @kwds(description="Send files and folders there.")
    @on_target
    @argument("source", nargs="+", metavar="SRC", help="files and folders of this machine")
    @argument("destination", metavar="DST", help="where to, there: a folder (ends with /), or a file's new name")
    def do_put(self, args: argparse.Namespace) -> None:
        print(clean(str(self._remote(args).put(*unquoted(args.source), dst=unquoted([args.destination])[0]))))

    @command("get")
    @kwds(description="Fetch files and folders from there.")
    @on_target
    @argument("source", nargs="+", metavar="SRC", help="files and folders of the far side")
    @argument("destination", metavar="DST", help="where to, here: a folder (ends with /), or a file's new name")
    def do_get(self, args: argparse.Namespace) -> None:
        print(clean(str(self._remote(args).get(*unquoted(args.source), dst=unquoted([args.destination])[0]))))

    @command("sendmodule")
    @kwds(description="Make a local module or package importable there.")
    @on_target
    @argument("module", metavar="MODULE", help="its name, or a variable that holds it, or a file NAME.py")
    def do_sendmodule(self, args: argparse.Namespace) -> None:
        remote = self._remote(args)
        found = self._shell.user_ns.get(args.module)
        path = Path(unquoted([args.module])[0]).expanduser()
        if isinstance(found, ModuleType):
            remote.sendmodule(found)
        elif path.suffix == ".py":
            try:
                remote.sendmodule(identifier(path.stem, "module"), path.read_text("utf-8"))
            except OSError as e:
                raise FlameError(f"cannot read {path}: {e.strerror}; %flame sendmodule takes a file here") from None
        else:
            raise FlameError(f"there is no module {args.module!r} here; import it first, or name its file NAME.py")

    @command("getmodule")
    @kwds(description="The source of a module of the far side: %flame getmodule NAME [FILE].")
    @on_target
    @argument("module", metavar="MODULE", help="its name there")
    @argument("file", nargs="?", metavar="FILE", help="write it to this file; without it the text is the line's value")
    def do_getmodule(self, args: argparse.Namespace) -> str | None:
        source: str = self._remote(args).getmodule(args.module)
        if args.file is None:
            return source
        path = Path(unquoted([args.file])[0]).expanduser()
        try:
            path.write_text(source, "utf-8")
        except OSError as e:
            raise FlameError(f"cannot write {path}: {e.strerror}") from None
        return None

    # -- the rest ----------------------------------------------------------------------------------------------------

    @command("console")
    @kwds(description="Python's interactive console there; Ctrl-D ends it.")
    @on_target
    def do_console(self, args: argparse.Namespace) -> None:
        with self._remote(args).console() as console:
            console.interact()

    @command("jobs")
    @kwds(description="List the cells that run in the background, and those that did.")
    @argument("number", nargs="?", type=int, metavar="JOB", help="this job itself, as the line's value")
    @argument("--cancel", action="store_true", help="interrupt it")
    def do_jobs(self, args: argparse.Namespace) -> Any:
        if args.number is None and not args.cancel:
            print(table(self._cells.jobs))
            return None
        found = [job for job in self._cells.jobs if job.number == args.number]
        if not found:
            numbers = ", ".join(str(job.number) for job in self._cells.jobs) or "none"
            raise FlameError(f"there is no job {args.number}; there are {numbers}")
        if args.cancel:
            found[0].cancel()
            return None
        return found[0]

    @command("help")
    @kwds(description="This list; with a subcommand's name, how that one is written.")
    @argument("name", nargs="?", metavar="COMMAND", help="one of the subcommands")
    def do_help(self, args: argparse.Namespace) -> None:
        if args.name is None:
            print(self.summary())
            print("%%flame            first line of a cell that runs there; %%flame? shows its options")
            return
        name = ALIASES.get(args.name, args.name)
        if name not in self.names():
            raise UsageError(f"there is no %flame {args.name}; there are {', '.join(self.names())}")
        print(self.parser(name).format_help().removeprefix("::\n\n").rstrip())


def where(remote: Remote) -> str:
    """Where the cells of a connection run, in words."""
    gone = remote.session.gone
    return clean(status(remote.session) if gone is None else str(gone))
