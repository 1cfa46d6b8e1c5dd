"""What ``%flame`` can do for one IPython shell: a method for each command of the table that makes sense here.

A method takes the line; what it returns is the line's value. Sessions are taken up and shown again in ``attaching.py``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..cluster.commands import InNotebook
from ..commands import help, monitor, rails, sessions
from ..commands.code_words import assignments, call_of, identifier, script
from ..commands.doctor import bundle, examine, of_target
from ..commands.doctor_here import examine_lab
from ..commands.far_path import get_paths, put_paths, sync_paths
from ..commands.key_question import opened
from ..commands.language import BY_NAME
from ..commands.looking import memory_look, trial
from ..commands.options import MAGICS, settings
from ..commands.parsing import Line, find, parse, parse_cell, words_of
from ..commands.status import status
from ..connect.keys import Ask
from ..connect.rails_table import Rails
from ..connect.target import LIGHT, load_target
from ..errors import CannotConnect, FlameError, TargetError
from ..files.sync import SyncOptions, sync_down, sync_up
from ..forward import browser
from ..forward import commands as forwarding
from ..hot.commands import hot, hotfix
from ..old_python.calls import is_old
from ..packages.commands import carry_out, read, without_there
from ..profile.asking import ProfileOptions, finished, live, take
from ..profile.memory import memory
from ..remote.modules import send_named
from ..remote.remote import Remote
from ..session.agent_client import AgentClient
from ..session.session import Session
from ..session.user import agrees, ask_line, in_notebook
from ..terminal import one_line, plain_text, warning
from .arguments import evaluated, local_value
from .attaching import Attaching
from .cells import Cells
from .connections import Connections, in_thread
from .jobs import table
from .old_python import in_words
from .on_group import OnGroup
from .output import show_drawn

# The depth for var_expand. It would also find names of the frame at that depth, such as our own `name` and `line`; so
# deep there is none.
_NO_FRAME = 1_000_000


class Commands:
    """What ``%flame`` can do for one IPython shell."""

    def __init__(self, shell: Any, connections: Connections, cells: Cells) -> None:
        self._shell = shell
        self._connections = connections
        self._cells = cells
        self._views = monitor.Views()
        self._dask_cluster = InNotebook(shell.user_ns)
        self._attaching = Attaching(shell, connections, cells)
        self._on_group = OnGroup(shell, cells.groups)

    def run(self, text: str) -> Any:
        """Carry out one line, without the ``%flame``; returns its value."""
        word, _, rest = text.strip().partition(" ")
        if word in BY_NAME and BY_NAME[word].expands:
            text = f"{word} {self._shell.var_expand(rest, depth=_NO_FRAME)}"
        line = parse(text, MAGICS)
        self._check_rails(line)
        do = self._on_group.of(line) or getattr(self, f"_{line.name}", None) or getattr(self._attaching, line.name)
        return do(line)

    def _check_rails(self, line: Line) -> None:
        """Raise FlameError for a command that writes on a server whose rails say read_only."""
        is_written, name = rails.written(line, self._connections.knows)
        if not is_written:
            return
        held: Mapping[str, Rails | None]
        if self._on_group.of(line) is not None:
            held = self._on_group.rails(line)
        elif name is None or self._connections.is_connected(name):
            name, remote = self._connections.pick(name)
            held = {name: remote.target.rails}
        else:
            held = rails.of_targets([name])
        rails.refuse_command(held, line.name)

    def close(self) -> None:
        """End all live views, and the Dask cluster."""
        self._views.end()
        self._dask_cluster.close()

    def _remote(self, line: Line) -> Remote:
        return self._connections.pick(line["target"])[1]

    # -- connections -------------------------------------------------------------------------------------------------

    def _connect(self, line: Line) -> None:
        alias, groups = line["as"], self._cells.groups
        if alias is not None:
            identifier(alias)
        groups.check_options(line["where"], settings(line.values))
        if alias is None and not settings(line.values) and groups.means(line["where"]):
            groups.current = line["where"]
            hosts = groups.of(line["where"]).labels
            print(f"{line['where']}: {len(hosts)} hosts; %%flame cells run on all of them, each connected when it does")
            return
        groups.current = None
        try:
            name, remote, new = self._connections.connect(line["where"], alias, settings(line.values), ask_line)
        except CannotConnect as e:
            if not is_old(e):
                raise
            name, old = self._connections.connect_old(line["where"], alias, settings(line.values), ask_line)
            if alias is not None:
                self._shell.user_ns[alias] = old
            print(f"{name}: {in_words(old)}")
            return
        if new:
            self._cells.adopt(remote)
        for sentence in remote.target.cautions() if new else ():
            print(warning(sentence), file=sys.stderr)
        if alias is not None:
            self._shell.user_ns[alias] = remote
        if remote.target.rails is not None:
            print(rails.line(remote.target.rails, f"{name} {remote.target.location}"), end="")
        print(f"{name}: {'' if new else 'connected already, '}{where(remote)}")

    def _use(self, line: Line) -> None:
        groups = self._cells.groups
        if not self._connections.is_connected(line["name"]) and groups.means(line["name"]):
            groups.current = line["name"]
            print(f"{line['name']} is the default now: %%flame cells run on all of it")
            return
        print(f"{self._connections.use(line['name'])} is the current connection")
        groups.current = None

    def _status(self, line: Line) -> None:
        if line["name"] is not None:
            one = self._connections.old(line["name"])
            if one is not None:
                print(f"{line['name']}: {in_words(one)}")
                return
            name, remote = self._connections.pick(line["name"])
            print(f"{name}: {where(remote)}")
            return
        groups = self._cells.groups.items()
        for words, chosen in groups:
            print(f"{'*' if words == self._cells.groups.current else ' '} {words}: {chosen.states}")
        if not self._connections.names and not groups:
            print("not connected. Try: %flame connect HOST:PORT (or just %flame connect for a local test server)")
        for name, remote in self._connections.items():
            print(f"{'*' if name == self._connections.current else ' '} {name}: {where(remote)}")
        for name, old in self._connections.olds():
            print(f"{'*' if name == self._connections.current else ' '} {name}: {in_words(old)}")

    def _doctor(self, line: Line) -> None:
        given = settings(line.values)

        def checks(ask: Ask) -> dict[str, str]:
            known = dict(self._connections.items())
            name = line["where"] or (None if given else self._connections.current)
            try:
                target = known[name].target if name in known else load_target(name, overrides=given, ask=ask)
            except TargetError as error:
                return bundle([of_target(error)])
            return bundle([*examine(target), *examine_lab()])

        self._shell.display_pub.publish(in_thread(checks, ask_line, undo=lambda shown: None))

    def _disconnect(self, line: Line) -> None:
        groups = self._cells.groups
        name = line["name"] or groups.current
        gone = []
        for words in dict.fromkeys([*dict(groups.items()), *([groups.current] if groups.current else [])]):
            if line["all"] or name == words:
                groups.disconnect(words, line["keep"])
                gone.append(words)
        if line["all"] or not gone:
            for one in self._connections.names if line["all"] else [name]:
                gone.append(self._connections.disconnect(one, line["keep"]))
        for one in dict.fromkeys(gone):
            print(f"{one}: disconnected")

    def _sessions(self, line: Line) -> None:
        with self._server(line["target"]) as remote:
            if line["kill"] is not None:
                self._kill(remote, line["kill"])
                return
            print(*sessions.lines(remote.session.sessions().result(), remote.session.session_id), sep="\n")

    def _kill(self, remote: Remote, name: str) -> None:
        if name == remote.session.session_id:
            raise FlameError(f"{name} is the session of this connection; %flame disconnect ends it")
        with contextlib.closing(AgentClient(remote.target)) as client:
            ended = client.kill(name)
        if not ended:
            raise sessions.no_session(name)
        print(f"ended session {name}")

    # -- looking in ----------------------------------------------------------------------------------------------------

    def _where(self, line: Line) -> None:
        self._look(line, lambda session: monitor.where(session, line["all"], monitor.ALL))

    def _watch(self, line: Line) -> None:
        self._look(line, lambda session: "")

    def _top(self, line: Line) -> None:
        self._look(line, monitor.top)

    def _audit(self, line: Line) -> None:
        of_group = self._on_group.audit()
        if of_group is not None:
            print(of_group)
            return
        current = self._connections.current
        print(rails.audit(None if current is None else self._connections.pick(current)[1].target.rails))

    def _memory(self, line: Line) -> None:
        show_drawn(self._shell, memory(self._remote(line).session, memory_look(line.values), line["of"] or ""))

    def _profile(self, line: Line) -> None:
        if line["end"]:
            print(self._views.end_in_words("profile", ""))
            return
        remote, options = self._remote(line), ProfileOptions.of(line.values)
        if line["live"]:
            show, is_live = self._cells.screen(remote)
            if not is_live:
                raise FlameError("--live is for notebooks, where a display can be renewed in place")
            live(self._views, remote.session, options, show)
            return
        profile, saved = finished(take(remote.session, options), line.values)
        show_drawn(self._shell, profile)
        if saved:
            print(plain_text(saved))

    def _look(self, line: Line, once: Callable[[Session], str]) -> None:
        kind, expression = line.name, line.values.get("code", "")
        if line["end"]:
            print(self._views.end_in_words(kind, expression))
            return
        remote = self._remote(line)
        if line["every"] is None:
            print(once(remote.session))
            return
        show, is_live = self._cells.screen(remote)
        everything = line.values.get("all", False)
        view = self._views.begin(
            remote.session, kind, show, line["every"], expression=expression, everything=everything
        )
        try:
            view.shown.wait() if is_live else view.wait()
        except KeyboardInterrupt:
            if is_live:
                raise
            view.end()  # a terminal cannot update text above its prompt, so the view blocks until Ctrl-C

    # -- code --------------------------------------------------------------------------------------------------------

    def _eval(self, line: Line) -> Any:
        code, remote = line["code"], self._remote(line)
        value = remote.evaluate(code.rstrip(";"))
        return None if code.endswith(";") else value

    def _exec(self, line: Line) -> None:
        name, remote = self._connections.pick(line["target"])
        self._cells.follow(name, remote, line["code"])

    def _try(self, line: Line) -> None:
        if not line["code"].strip():
            raise FlameError("nothing to try; write code behind %flame try, or a whole cell below %%flame --try")
        name, remote = self._connections.pick(line["target"])
        self._cells.follow(name, remote, line["code"], tried=trial(line["timeout"]))

    def _run(self, line: Line) -> Any:
        name, remote = self._connections.pick(line["target"])
        call = call_of(line["code"])
        if call is not None:
            function, arguments, named = evaluated(call, self._shell.ev)
            return remote.run(function, *arguments, **named)
        self._cells.follow(name, remote, script(words_of(line["code"])), hide="_flame_script")
        return None

    def _px(self, line: Line) -> None:
        target = line["target"] or ":"
        cell = parse_cell(f"-t {target}", MAGICS)
        self._cells.groups.run(cell, line["code"], {})

    def _result(self, line: Line) -> None:
        self._cells.groups.show_again(line)

    # -- names -------------------------------------------------------------------------------------------------------

    def _module(self, line: Line) -> None:
        self._bind(line, "module")

    def _builtin(self, line: Line) -> None:
        self._bind(line, "builtin")

    def _bind(self, line: Line, kind: str) -> None:
        name, alias = line["name"], line["alias"]
        if alias and (len(alias) != 2 or alias[0] != "as"):
            raise FlameError(f"write %flame {kind} {name} as NAME")
        for part in name.split("."):
            identifier(part, kind)
        here = identifier(alias[1] if alias else name.rpartition(".")[2])
        remote = self._remote(line)
        if kind == "builtin" and not remote.evaluate(f"hasattr(__import__('builtins'), {name!r})"):
            raise FlameError(f"there is no built-in function {name} at {remote.name}; Tab knows their names")
        try:
            self._shell.user_ns[here] = getattr(remote, kind)(name)
        except ModuleNotFoundError as e:
            raise FlameError(f"{name} cannot be imported at {remote.name}: {one_line(str(e))}") from None

    def _push(self, line: Line) -> None:
        remote = self._remote(line)
        values = {}
        for name, expression in assignments(line["code"]):
            if expression is None and name not in self._shell.user_ns:
                raise FlameError(f"there is no variable {name!r} here; %flame push NAME or NAME=EXPRESSION")
            values[name] = self._shell.user_ns[name] if expression is None else local_value(expression, self._shell.ev)
        remote.push(values)

    def _pull(self, line: Line) -> None:
        for name in line["names"]:
            identifier(name, "variable name")
        self._shell.user_ns.update(self._remote(line).pull(line["names"]))

    # -- files -------------------------------------------------------------------------------------------------------

    def _put(self, line: Line) -> None:
        sources = line["source"]
        server, destination = put_paths(sources, line["destination"], self._connections.knows, line["target"])
        with self._server(server) as remote:
            print(plain_text(str(remote.put(*sources, dst=destination))))

    def _get(self, line: Line) -> None:
        destination = line["destination"] or "."
        server, sources = get_paths(line["source"], destination, self._connections.knows, line["target"])
        with self._server(server) as remote:
            print(plain_text(str(remote.get(*sources, dst=destination))))

    def _sync(self, line: Line) -> None:
        source, destination = line["source"], line["destination"]
        known = self._connections.knows
        server, far_source, far_destination = sync_paths(source, destination, known, line["target"])
        says = line["verbose"] or line["dry_run"]
        options = SyncOptions(
            delete=line["delete"],
            dry_run=line["dry_run"],
            checksum=line["checksum"],
            exclude=tuple(line["exclude"]),
            report=(lambda text: print(plain_text(text))) if says else lambda text: None,
        )
        with self._server(server) as remote:
            if far_source is None:
                result = sync_up(remote.session, source, far_destination or "", options)
            else:
                result = sync_down(remote.session, far_source, destination, options)
        print(plain_text(f"would do: {result}" if line["dry_run"] else str(result)))

    @contextlib.contextmanager
    def _server(self, name: str | None) -> Any:
        """The remote of a connection (None: the current one); for another server, a new one that is closed
        afterwards."""
        if name is None or self._connections.is_connected(name):
            yield self._connections.pick(name)[1]
            return

        def open_there(ask: Ask) -> Remote:
            return opened(lambda asking: load_target(name, overrides=LIGHT, ask=asking), Remote, ask)

        with contextlib.closing(in_thread(open_there, ask_line, undo=lambda remote: remote.close())) as remote:
            yield remote

    # -- ports -------------------------------------------------------------------------------------------------------

    def _forward(self, line: Line) -> None:
        forwards = self._remote(line).forwards
        if line["stop"] is not None:
            print(forwarding.stop(forwards, line["stop"]))
            return
        made = forwarding.open_all(forwards, line["ports"], line.values)
        for one in made if line["open"] else ():
            browser.open_link(one)
        if in_notebook():
            self._shell.display_pub.publish(forwarding.bundle(made))
        else:
            print(forwarding.text(made))

    def _forwards(self, line: Line) -> None:
        forwards = self._remote(line).forwards
        print(forwarding.stop(forwards, line["stop"]) if line["stop"] is not None else forwarding.table(forwards))

    # -- packages ----------------------------------------------------------------------------------------------------

    def _pip(self, line: Line) -> None:
        if line["target"] is not None and self._cells.groups.means(line["target"]):
            self._cells.groups.pip(line)
            return
        name, remote = self._connections.pick(line["target"])
        asked = read(words_of(line["code"]))
        if asked.there:
            self._cells.follow(name, remote, without_there(line["code"]))
            return
        print(carry_out(remote.session, asked, lambda question: agrees(ask_line, question), print))

    # -- Dask --------------------------------------------------------------------------------------------------------

    def _dask(self, line: Line) -> None:
        if line["stop"]:
            print(self._dask_cluster.stop())
            return
        hosts, given = line["target"], settings(line.values)
        if self._dask_cluster.cluster is None:
            hosts, known = self._connections.hosts(hosts or self._cells.groups.current)
            given = known | given
        words = self._dask_cluster.run(hosts, line.values, given)
        if in_notebook():
            self._dask_cluster.show()
        print(f"{words}\n{self._dask_cluster.bound} is its client; %flame dask --stop ends it")

    # -- modules -----------------------------------------------------------------------------------------------------

    def _sendmodule(self, line: Line) -> None:
        remote = self._remote(line)
        found = self._shell.user_ns.get(line["module"])
        is_module = isinstance(found, ModuleType)
        sent = remote.sendmodule(found) if is_module else send_named(remote.session, line["module"])
        print(plain_text(str(sent)))

    def _hot(self, line: Line) -> None:
        print(plain_text(hot(self._remote(line).session, line.values)))

    def _hotfix(self, line: Line) -> None:
        self._fix(line, "")

    def _fix(self, line: Line, text: str) -> None:
        shown, following = hotfix(self._remote(line).session, line.values, text)
        print(plain_text(shown))
        if following:
            self._shell.set_next_input(following)

    def fix(self, text: str, code: str) -> None:
        """Carry out a ``%%flame hotfix`` cell: the line's ``text`` without the ``%%flame``, and what stands below."""
        line = parse(text, MAGICS)
        self._check_rails(line)
        fix: Callable[..., None] = self._on_group.of(line) or self._fix
        fix(line, code)

    def _getmodule(self, line: Line) -> str | None:
        source: str = self._remote(line).getmodule(line["module"])
        if line["file"] is None:
            return monitor.Shown(source)
        path = Path(line["file"]).expanduser()
        try:
            path.write_text(source, "utf-8")
        except OSError as e:
            raise FlameError(f"cannot write {path}: {e.strerror}") from None
        return None

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _console(self, line: Line) -> None:
        with self._remote(line).console() as console:
            console.interact()

    def _jobs(self, line: Line) -> Any:
        number = line["number"]
        if number is None and not line["cancel"]:
            print(table(self._cells.jobs))
            return None
        found = [job for job in self._cells.jobs if job.number == number]
        if not found:
            numbers = ", ".join(str(job.number) for job in self._cells.jobs) or "none"
            raise FlameError(f"there is no job {number}; there are {numbers}")
        if line["cancel"]:
            found[0].cancel()
            return None
        return found[0]

    def _help(self, line: Line) -> None:
        name = line["name"]
        print(help.overview(MAGICS) if name is None else help.about(find(name, MAGICS), MAGICS))


def where(remote: Remote) -> str:
    """Where the cells of a connection run, in words."""
    gone = remote.session.gone
    return plain_text(status(remote.session) if gone is None else str(gone)).replace("\n", "\n    ")
