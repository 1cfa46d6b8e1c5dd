"""Remote: a session on a Flame server as an object, for scripts and the magics; ``flame.connect`` returns it.

    pi = flame.connect("ssh://me@raspberrypi/9999", key_file="pi.key")
    pi.modules.os.listdir("."); pi.builtins.max(3, 4)
    pi.execute("import math"); pi.evaluate("math.sqrt(500)"); pi["x"] = 3

The namespace is that of the session's cells, not that of stock Flame's ``evaluate``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import ModuleType
from typing import Any

from ..agent.wire.tables import tensors
from ..commands import library_rails, monitor
from ..connect.target import Target
from ..errors import FlameError
from ..files import transfer
from ..forward.forwards import Forward, Forwards
from ..hot import fixing, serving
from ..packages import install as packages
from ..profile import asking, memory
from ..profile.profile import Profile
from ..security.completions import identifiers
from ..serve.embedded import OwnServer
from ..session.bootstrap import agent_text
from ..session.inbox import Event
from ..session.requests import Reply
from ..session.session import Session, held_back
from . import lookahead
from .batch import Batch
from .callbacks import CalledBack
from .calls import Calls, Sink, Step
from .console import Console, history_file
from .far_names import Modules, by_path, identifier, pull, push, text, text_name
from .foreground import tried
from .functions import RemoteFunction
from .modules import SentModule, getmodule, sendmodule
from .proxy import chain, reference, stand_in


class Remote:
    """A session on a Flame server, as an object; as a context manager it closes itself. Made by `connect`.

    session      the `Session` itself; ``name`` and ``location`` say where it is
    attach       as in `Session`
    timeout      seconds for each call; None: no limit
    allow_stdin  whether ``input()`` there may ask here; None: if a user is there to answer
    show         called with events that are not text, such as pictures
    on_link      called with a sentence when the connection is lost, and with None when it is back
    taken_up     the cells that already ran in an existing session, each with the queue of its events
    on_takeover  called with the id and name of a client that asks for the session
    """

    def __init__(self, target: Target, attach: str | None = None, client_id: str | None = None) -> None:
        self._own_server = OwnServer(agent_text)
        self._closed = False
        self.on_link: Callable[[str | None], None] = lambda sentence: None
        try:
            target, alive = self._own_server.reach(target)
            with held_back(lambda events: self._calls.on_events(events)) as on_events:
                self.session = Session(
                    target,
                    on_events,
                    on_link=lambda sentence: self.on_link(sentence),
                    alive=alive,
                    attach=attach,
                    client_id=client_id,
                )
                self._calls = Calls(self.session, stand_in, reference)
                self.forwards = Forwards(self.session)
                self.taken_up = self._running()
            self._serve_hot()
        except BaseException:  # raised again, whatever it is; a server of our own is ended
            self._own_server.close()
            raise
        _open.add(self)

    def __repr__(self) -> str:
        return f"<Remote {self.name} {self.session!r}>"

    def _serve_hot(self) -> None:
        """Serve the folders that the target names."""
        try:
            serving.by_target(self.session)
        except FlameError:
            self.session.close()
            raise

    def _running(self) -> list[tuple[dict[str, Any], queue.SimpleQueue[Any]]]:
        """The cells that ran when we attached, each with the queue for its events. Called before any event comes."""
        session, found = self.session, []
        inputs = session.server.get("inputs")
        for cell in session.running:
            told: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._calls.route(cell["request"], told.put)
            for asked in inputs if isinstance(inputs, list) else ():
                if isinstance(asked, dict) and asked.get("request") == cell["request"]:
                    told.put({"type": "input_request", "request": cell["request"], "content": asked})
            found.append((cell, told))
        return found

    def follow(self, request_id: str, sink: Sink) -> Future[Reply]:
        """Pass all events of a cell that already ran when we attached to ``sink``; return a future of its reply."""
        told = next(told for cell, told in self.taken_up if cell["request"] == request_id)
        lock = threading.RLock()

        def take(event: Event | None) -> None:
            with lock:
                while not told.empty():
                    sink(told.get())
                if event is not None:
                    sink(event)

        self._calls.route(request_id, take)
        take(None)
        reply: Future[Reply] = Future()

        def over(done: Future[Reply]) -> None:
            take(None)
            if done.exception() is not None:
                reply.set_exception(done.exception())
            else:
                reply.set_result(done.result())

        self.session.follow(request_id).add_done_callback(over)
        return reply

    @property
    def on_takeover(self) -> Callable[[str, str], None]:
        return self._calls.on_takeover

    @on_takeover.setter
    def on_takeover(self, tell: Callable[[str, str], None]) -> None:
        self._calls.on_takeover = tell

    @property
    def target(self) -> Target:
        return self.session.target

    @property
    def name(self) -> str:
        """The target's name, or its location."""
        return self._calls.name

    @property
    def location(self) -> str:
        return self.session.location

    @property
    def timeout(self) -> float | None:
        return self._calls.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._calls.timeout = seconds

    @property
    def allow_stdin(self) -> bool | None:
        return self._calls.allow_stdin

    @allow_stdin.setter
    def allow_stdin(self, allow: bool | None) -> None:
        self._calls.allow_stdin = allow

    @property
    def show(self) -> Sink | None:
        return self._calls.show

    @show.setter
    def show(self, sink: Sink | None) -> None:
        self._calls.show = sink

    @property
    def write(self) -> Callable[[str, str], None]:
        """The function that writes text of calls, given stream name and text; by default to this process's streams."""
        return self._calls.write

    @write.setter
    def write(self, write: Callable[[str, str], None]) -> None:
        self._calls.write = write

    def perform(self, root: list[Any], steps: Sequence[Step], mode: str = "auto") -> Any:
        """Evaluate a chain of attributes and calls on the far side; see ``agent/remote/objects.py``."""
        return self._calls.perform(root, steps, mode)

    # -- modules and built-in functions ------------------------------------------------------------------------------

    @property
    def modules(self) -> Modules:
        """The far side's modules: ``pi.modules.os.getpid()``, ``pi.modules["os.path"]``."""
        return Modules(self._calls)

    @property
    def builtins(self) -> Any:
        """The far side's built-in functions: ``pi.builtins.open("/etc/hostname").read()``."""
        return chain(self._calls, ["builtins"])

    def module(self, name: str) -> Any:
        """A module by its name; ModuleNotFoundError if there is none."""
        return by_path(self._calls, text(name), lookahead.goes_on(sys._getframe(1)))

    def builtin(self, name: str) -> Any:
        """A built-in function by its name."""
        return chain(self._calls, ["builtins"], ("get", identifier(name, "a built-in function")))

    # -- code and names ----------------------------------------------------------------------------------------------

    def execute(self, code: str, *, timeout: float | None = None) -> None:
        """Run statements in the session's namespace; their output appears here."""
        self._calls.perform(["exec", library_rails.hold(self.session, text(code))], (), "none", **_options(timeout))

    def try_(self, code: str, *, timeout: float | None = None) -> None:
        """Run code in a copy of the process there; show what it would have changed."""
        tried(self, text(code), timeout)

    def evaluate(self, expression: str, *, ref: bool = False, timeout: float | None = None) -> Any:
        """The value of an expression in the session's namespace; with ``ref`` always a stand-in for it."""
        code = library_rails.hold(self.session, text(expression))
        return self._calls.perform(["eval", code], (), "keep" if ref else "auto", **_options(timeout))

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a local function on the far side: it is sent as source, with what it uses (see `functions`).

        The result is returned like that of any call; an ``async def`` is awaited there.
        """
        while isinstance(function, (RemoteFunction, functools.partial)):
            if isinstance(function, functools.partial):
                args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
                function = function.func
            else:
                function = function.local
        library_rails.hold_function(self.session, function)
        call = ("call", args, kwargs)
        return self._calls.perform(["function", function], (call,), **{"await": True})  # type: ignore[arg-type]

    def remote(self, function: Callable[..., Any]) -> RemoteFunction:
        """Decorator for a local function that runs on the far side when it is called."""
        return RemoteFunction(function, self.run, self.name)

    def on(self, function: Callable[..., Any]) -> CalledBack:
        """Mark a function as a callback that runs here on the waiting thread: ``pi.run(train, report=pi.on(show))``.

        Without this, a function argument runs on the far side if its source can be sent and it changes nothing here.
        """
        return CalledBack(function)

    def batch(self) -> Batch:
        """Send several calls in one message: ``with pi.batch() as b: cwd = b.modules.os.getcwd()``; gives futures."""
        return Batch(self._calls)

    def __getitem__(self, name: str) -> Any:
        step = ("item", text_name(name))
        if lookahead.goes_on(sys._getframe(1)):
            return chain(self._calls, ["names"], step)
        return self._calls.perform(["names"], (step,))

    def __setitem__(self, name: str, value: Any) -> None:
        self._calls.perform(["names"], (("set_item", identifier(name, "a name"), value),), "none")

    def __delitem__(self, name: str) -> None:
        self._calls.perform(["names"], (("delete_item", text_name(name)),), "none")

    def __contains__(self, name: object) -> bool:
        return self._calls.demand(["names"], (("op", "contains", name),), bool)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """The user's names in the session, sorted."""
        found = self._calls.demand(["user_names"], (), list)
        return [name for name in found if isinstance(name, str)]

    def push(self, values: Mapping[str, Any], *, device: str | None = None) -> None:
        """Bind several names on the far side; none of them if one value cannot be sent. ``device``: for tensors."""
        with tensors.on(device):
            push(self._calls, values)

    def pull(self, names: Sequence[str], *, device: str | None = None) -> dict[str, Any]:
        """Fetch the values of several names (or one), however large; FlameError if one is not defined."""
        with tensors.on(device):
            return pull(self._calls, names)

    def _ipython_key_completions_(self) -> list[str]:
        """Names for ``pi["<Tab>``; called by IPython."""
        return identifiers(self.names())

    # -- cells -------------------------------------------------------------------------------------------------------

    def cell(
        self,
        code: str,
        sink: Sink,
        *,
        request_id: str | None = None,
        allow_stdin: bool = False,
        silent: bool = False,
        store_history: bool = True,
        lane: str | None = None,
        held: bool = False,
        **more: Any,
    ) -> Future[Reply]:
        """Run a cell; return a future of the content of its execute_reply.

        ``sink`` gets only the events of this cell, also those of threads that it leaves behind. It is called on the
        events thread and must not wait for this session. The future's ``request_id`` can be passed to ``interrupt``. On
        another ``lane`` the cell does not wait for other cells. ``held``: the caller has asked the rails of the target.
        ``more``: see ``Session.execute``.
        """
        code = code if held else library_rails.hold(self.session, text(code))
        request_id = request_id or uuid.uuid4().hex
        self._calls.route(request_id, sink)
        future = self.session.execute(
            request_id,
            code,
            allow_stdin=allow_stdin,
            silent=silent,
            store_history=store_history,
            lane=lane,
            **more,
        )
        future.request_id = request_id  # type: ignore[attr-defined]
        return future

    def comm(
        self, request_id: str, msg_type: str, message: dict[str, Any], sink: Sink, lane: str | None = None
    ) -> Future[Reply]:
        """Send a front end's message to a comm there; ``sink`` as for ``cell``. Done when the comm's callbacks are."""
        self._calls.route(request_id, sink)
        return self.session.comm(request_id, msg_type, message, lane)

    def interrupt(self, request_id: str | None = None) -> Future[Any]:
        """Interrupt a cell or call on the far side; without an id everything that runs."""
        return self.session.interrupt(request_id)

    # -- looking into a running session --------------------------------------------------------------------------------

    def where(self, everything: bool = False) -> str:
        """The stacks of running cells with source lines; with ``everything`` also all threads and tasks.

        Works while cells run and does not stop them. Raises FlameError if the far side does not answer.
        """
        return monitor.Shown(monitor.where(self.session, everything, ".where(everything=True)"))

    def top(self) -> str:
        """The resources that the far side uses: CPU, memory, threads, subprocesses, open files. Raises FlameError."""
        return monitor.Shown(monitor.top(self.session))

    def profile(self, seconds: float = asking.SECONDS, **how: Any) -> Profile:
        """Where the time goes; ``how`` has names of a `ProfileOptions`. Ctrl-C ends it early. Raises FlameError."""
        return asking.take(self.session, asking.ProfileOptions.named(seconds=seconds, **how))

    def memory(self, what: str = "look", of: str = "") -> str:
        """What uses memory: growth by line from ``"start"`` on, ``"types"``, or who holds ``of``. Raises FlameError."""
        return memory.memory(self.session, what, of)

    # -- files, modules, the console ---------------------------------------------------------------------------------

    def put(
        self, *paths: transfer.Name, dst: transfer.Name | None = None, progress: bool | None = None
    ) -> transfer.Transferred:
        """Copy files and folders to the far side, as ``cp -r`` does: ``pi.put("a", "b", "folder")``.

        The last path is the destination, unless ``dst`` is given. ``progress`` shows a bar; None: if a user can see it.
        """
        library_rails.refuse(self.session, "put")
        sources, to = transfer.sources_and_destination(paths, dst)
        return transfer.put(self.session, sources, to, progress=progress)

    def get(
        self, *paths: transfer.Name, dst: transfer.Name | None = None, progress: bool | None = None
    ) -> transfer.Transferred:
        """Copy files and folders from the far side to here; arguments as for ``put``."""
        sources, to = transfer.sources_and_destination(paths, dst)
        return transfer.get(self.session, sources, to, progress=progress)

    def sendfile(self, filename: transfer.Name, filedata: bytes | bytearray | memoryview) -> None:
        """Write a file with this content on the far side."""
        library_rails.refuse(self.session, "sendfile")
        transfer.sendfile(self.session, filename, filedata)

    def getfile(self, filename: transfer.Name) -> bytes:
        """The content of a file on the far side."""
        return transfer.getfile(self.session, filename)

    def sendmodule(self, module: str | ModuleType, source: str | None = None) -> SentModule:
        """Make a module importable on the far side: a name with its source, or a local module or package."""
        return sendmodule(self.session, module, source)

    def getmodule(self, name: str) -> str:
        """The source of a module on the far side."""
        return getmodule(self.session, name)

    def hot(self, *folders: str | os.PathLike[str], reload: bool = False) -> serving.Hot:
        """Serve the modules of these folders to imports there, in memory, until its ``close()``: ``pi.hot("src")``.

        With ``reload`` those that were edited here are reloaded before the next call or cell.
        """
        return serving.serve(self.session, folders, reload)

    def hotfix(self, name: str, new: str | Callable[..., Any]) -> fixing.Fix:
        """Give a function of the program there new code, until its ``undo()``: ``pi.hotfix("app.slow", text)``."""
        return fixing.fix(self.session, name, new)

    # -- ports -------------------------------------------------------------------------------------------------------

    def forward(
        self,
        port: int | str | os.PathLike[str] = 0,
        *,
        reverse: bool = False,
        local: int | str | os.PathLike[str] | None = None,
        host: str | None = None,
        bind: str | None = None,
        socks: bool = False,
    ) -> Forward:
        """Reach a port of the far side from here: ``with pi.forward(6006) as f: webbrowser.open(f.url)``.

        port     the port or socket path there (a ``Path``, if it has a colon), or as in ``ssh -L``: ``"8080:host:80"``
        reverse  the far side listens at ``port``, and what connects there reaches ``local`` here
        local    the port or path of a unix socket here; None: the same port, or a free one if it is taken
        host     the host that is connected to, as the other side knows it (default: localhost)
        bind     listen on this address instead of loopback
        socks    a SOCKS5 proxy here, at ``local`` or ``port``: a browser that uses it sees the far side's network

        Connections survive an outage. They end with the session, or with ``close()``.
        """
        made = self.forwards.open(port, reverse=reverse, local=local, host=host, bind=bind, socks=socks)
        for sentence in made.warnings:
            print(f"Warning: {sentence}" if "whoever" in sentence else f"Note: {sentence}", file=sys.stderr)
        return made

    # -- packages ----------------------------------------------------------------------------------------------------

    def install(self, *requirements: str, first: bool = False, progress: bool | None = None) -> packages.Installed:
        """Install packages there that pip fetches here: ``pi.install("rich")``; ``first``: before what the host has."""
        library_rails.refuse(self.session, "install")
        return packages.install(self.session, requirements, consent=lambda _: True, first=first, progress=progress)

    def uninstall(self, *names: str) -> list[str]:
        """Remove packages that ``install`` has sent; without names all of them, and the folder."""
        library_rails.refuse(self.session, "uninstall")
        return packages.uninstall(self.session, names or None)

    def console(self) -> Console:
        """The interactive prompt of the far side: ``with pi.console() as console: console.interact()``."""
        return Console(self, history_file())

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the session and everything in it, and its server if that was started for it. Idempotent."""
        self._finish(self.session.close)

    def detach(self) -> None:
        """Disconnect; the session and what it runs stay alive on the server, and can be attached to by name."""
        self._finish(self.session.detach)

    def _finish(self, leave: Callable[[], None]) -> None:
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        self._calls.close()
        leave()
        self._own_server.close()

    def __enter__(self) -> Remote:  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _options(timeout: float | None) -> dict[str, Any]:
    return {} if timeout is None else {"timeout": timeout}


# Sessions that are closed when the program ends, if they are still open.
_open: weakref.WeakSet[Remote] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for remote in list(_open):
        with contextlib.suppress(FlameError):
            remote.close()
