"""FlameKernel: a Jupyter kernel whose cells run on a Flame server.

Requests become calls of the session, its events become messages; the protocol's own side (channels, heartbeat, status,
queueing, subshells, encryption) is ipykernel's. Client-side by nature, and done here: history, ``is_complete``,
``%flame …`` and ``%%local``.

Messaging: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ipykernel._version import __version__ as ipykernel_version
from ipykernel._version import kernel_protocol_version
from ipykernel.kernelbase import Kernel
from ipykernel.subshell_manager import UnknownSubshellError
from jupyter_core.paths import jupyter_config_dir
from traitlets import Float, default

from .. import __version__
from ..agent.wire.message import COMMS
from ..commands import rails
from ..commands.cell_text import Source
from ..commands.help import LOCAL
from ..commands.parsing import profiled_cell
from ..connect.keys import Ask, hide_keys, without_key
from ..connect.settings import FlameSettings
from ..connect.target import Target, load_target, usual_target
from ..errors import FlameError, NotSent, UnsafeAnswer
from ..serve import early
from ..session.session import Session
from ..terminal import plain_text
from .backend import FarSide
from .clients import Clients
from .commands import Commands
from .comms import Comms
from .completion import Editor
from .debugger import Debugger, is_there
from .dispatch import EMPTY, QUESTIONS, Dispatch, Execution, begins, overtakes
from .first_tab import FirstTab
from .groups import How
from .history import History
from .iopub import Publisher, pack
from .outgoing import Outgoing
from .restart import Memory
from .sessions import MOST_CELLS, Cell
from .sides import Sides, answered
from .stdin import Prompts
from .waits import Stopped, Waits

# What a cell says that calls exit() or quit(): consoles end then, notebooks do nothing.
EXIT_WORDS = "to end this session: %flame disconnect, or shut the kernel down; %flame detach keeps it running\n"


class FlameKernel(Kernel):
    """One notebook's kernel: a far side for its cells, and one on this machine for ``%%local``."""

    implementation = "remote-flame"
    implementation_version = f"{ipykernel_version}+flame.{__version__}"  # of the one that we are built on
    # ipykernel sleeps before each reply, for output that goes by another thread; ours is on its way in order.
    _execute_sleep = Float(0.0).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log.addFilter(hide_keys)  # ipykernel logs whole messages at its lowest level
        if self.session is not None:
            self.session.pack = pack
        self._clients = Clients()
        self._dispatch = Dispatch(self, self._clients)
        self._waits = Waits()
        self._source = Source()
        self._history = History(self.profile_dir, self.config)
        self._prompts = Prompts(self.session, self.stdin_socket, self.log)
        self._publisher = Publisher(
            self._send_iopub,
            self._history.store_output,
            self._prompts.on_event,
            self.iopub_thread if isinstance(self.iopub_thread, Outgoing) else None,
        )
        self._sides = Sides(self._publisher, self.log)
        self._far = self._sides.far
        self._first_tab = FirstTab()
        connection_file = getattr(self.parent, "abs_connection_file", "")
        self._memory = Memory(connection_file, self.session.key if self.session is not None else b"")
        self._commands = Commands(
            self._far,
            *(self._publisher, self._waits, self._clients, self._load, self._sides.get_local, self._memory),
            self._usual,
        )
        self._commands.sessions.begin()
        self._editor = Editor(self._sides, self._commands.groups, self._publisher)
        self._comms = Comms(self._sides, self._editor, self._publisher)
        self._debugger = Debugger(self._far, self._publisher, self.log)
        for msg_type in COMMS:
            self.shell_handlers[msg_type] = self._comm
        for msg_type in (*QUESTIONS, "execute_request"):
            self.shell_handlers[msg_type] = functools.partial(self._dispatch.answer, getattr(self, msg_type))

    def _load(self, name_or_location: str | None, ask: Ask | None = None, **overrides: Any) -> Target:
        folder = Path(jupyter_config_dir())
        defaults = FlameSettings(parent=self).values()
        return load_target(name_or_location, config_dir=folder, overrides=overrides, ask=ask, defaults=defaults)

    def _usual(self) -> str | None:
        return usual_target(FlameSettings(parent=self).values(), config_dir=Path(jupyter_config_dir()))

    def start(self) -> None:
        """Called by the application when the channels are there: connect meanwhile, so that the first cell is quick."""
        super().start()
        self._prompts.start(self.io_loop)
        signal.signal(signal.SIGINT, lambda *args: self.io_loop.add_callback_from_signal(self._interrupt))
        if self._far.target.location is not None or self._far.trouble is not None:
            early.drop()
        self._far.session()

    # -- who we are --------------------------------------------------------------------------------------------------

    @property
    def language_info(self) -> dict[str, object]:  # type: ignore[override]
        """The far side's Python, once it is known."""
        return self._far.language_info

    @property
    def banner(self) -> str:  # type: ignore[override]
        where = plain_text(self._far.words())
        held = self._far.target.rails
        line = "" if held is None else f"\n{plain_text(rails.words(held))}"
        return f"Remote Flame {__version__}: {where}{line}\n%flame connect WHERE changes that, %flame status shows it."

    @property
    def kernel_info(self) -> dict[str, Any]:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#kernel-info

        The debugger is the far side's: claimed once that is known to have one, whatever is installed here.
        """
        features = ["kernel subshells"] if self._supports_kernel_subshells else []
        return {
            "protocol_version": kernel_protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": [*features, "debugger"] if is_there(self._far) else features,
        }

    @property
    def execution_count(self) -> int:
        """The number of the cell that comes next, or is just about to begin."""
        return self._far.count

    @execution_count.setter
    def execution_count(self, value: int) -> None:
        """Does nothing: the base class counts too, and its number is not used."""

    @default("help_links")
    def _default_help_links(self) -> list[dict[str, str]]:
        return [{"text": "Pyro4 Flame", "url": "https://pyro4.readthedocs.io/en/stable/flame.html"}]

    @default("shell_streams")
    def _no_shell_streams(self) -> list[Any]:
        return []

    # -- the order of messages: ipykernel's hooks, which `dispatch.py` answers ---------------------------------------

    async def shell_main(
        self, subshell_id: str | None, msg: Any, header: Mapping[str, Any] = EMPTY, code: str = ""
    ) -> None:
        """Handle a message of a shell when its turn comes."""
        self._first_tab.heard(str(header.get("msg_type")))
        if header.get("msg_type") == "execute_request":
            self._tell_of_output(header, code)
        await self._dispatch.handle(self.dispatch_shell, subshell_id, msg, header, code)

    def _tell_of_output(self, header: Mapping[str, Any], code: str) -> None:
        """Tell the first cell of a page that was opened again what was missed; before its turn, which may come late."""
        text = self._clients.note(str(header.get("session")))
        if text and not code.startswith(("%flame replay", "%flame attach")):
            self._send_iopub("stream", {"name": "stdout", "text": text}, {"header": header}, topic="stream.stdout")

    def shell_channel_thread_main(self, msg: Any) -> None:  # type: ignore[override]  # a callback, of any kind
        """A message of the shell channel has come."""
        self._dispatch.arrived(msg)

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        self._dispatch.abort(subshell_id)

    async def dispatch_shell(self, *args: Any, **kwargs: Any) -> None:
        """As ipykernel's, which says neither busy nor idle for what is concurrent; whoever handles it does that."""
        begins(bool(kwargs.get("concurrent")))
        await super().dispatch_shell(*args, **kwargs)

    async def dispatch_control(self, msg: Any) -> None:
        """As ipykernel's, but a debug_request does not hold the channel: its answer may take as long as the far side,
        or what is evaluated there, takes. So an interrupt and a shutdown, which come by the same channel, overtake."""
        seen = self._dispatch.peek(msg)
        if seen is None or self.session is None:
            return
        self._first_tab.heard(str(seen[1].get("msg_type")))
        if seen[1].get("msg_type") != "debug_request":
            await super().dispatch_control(msg)
            return
        await self._debugger.answer(msg, self.session, self._publish_status, self.control_stream)

    # -- cells -------------------------------------------------------------------------------------------------------

    async def execute_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """As ipykernel's; a Stop counts for the cell as soon as a front end sees the cell begin."""
        with self._waits.cell():
            await super().execute_request(stream, ident, parent)

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: Any = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#execute"""
        parent = self.get_parent()
        counts = store_history and not silent and bool(code.strip())
        cell = Execution(parent["header"]["msg_id"], parent, code, silent, counts, self._far.count)
        self._far.count += counts  # the next one may begin meanwhile: on a subshell, or a command that need not wait
        options: dict[str, Any] = {
            "silent": silent,
            "store_history": store_history,
            "user_expressions": user_expressions,
            "allow_stdin": allow_stdin,
            "cell_id": cell_id,
            "lane": parent["header"].get("subshell_id"),
            "count": None if silent else cell.count,
        }
        with self._executing(cell):
            try:
                return await self._execute(cell, options)
            except Stopped:
                what = "connecting" if self._far.current is None else "waiting"
                return self._error(cell, "KeyboardInterrupt", f"stopped while {what}")
            except NotSent as e:
                return self._error(cell, "KeyboardInterrupt", str(e))
            except FlameError as e:
                return self._error(cell, type(e).__name__, str(e))
            except Exception as e:  # a bug of ours: without a reply the front end would wait for ever
                self.log.error("defect in do_execute", exc_info=True)
                words = f"{e} (a bug in Remote Flame; see the kernel's log)"
                return self._error(cell, type(e).__name__, words)

    @contextlib.contextmanager
    def _executing(self, cell: Execution) -> Iterator[None]:
        """A context for an open execute_request: all parts that keep something for it are told of its begin and end."""
        with self._dispatch.running(cell.parent):
            # Output without a parent never goes to a silent one, nor to a command that has overtaken a cell.
            is_cell = not (cell.silent or overtakes())
            self._publisher.remember(cell.request_id, cell.parent, self._parent_ident["shell"], cell=is_cell)
            if is_cell:
                self._clients.began(cell.request_id, cell.parent["header"].get("session", ""))
            self._first_tab.cell_begins()
            if cell.counts:
                # Called when the far side is at work already, but before anybody can ask for the history.
                cell.remember = self._history.storing(cell.count, without_key(cell.code))
            try:
                yield
            finally:
                cell.remember()
                self._clients.ended(cell.request_id)
                self._sides.ended(cell.request_id)
                self._prompts.forget(cell.request_id)
                session = self._far.current
                # An app's own process gets jedi when somebody asks, and not before.
                self._first_tab.cell_ended(session if session and session.server["place"] == "child" else None)

    async def _execute(self, cell: Execution, options: dict[str, Any]) -> dict[str, Any]:
        """The content of the reply to a cell; raises Stopped and FlameError where it cannot run."""
        profiled, text = profiled_cell(cell.code)
        far, code, more = await self._route(cell, text)
        if far is None:
            return {
                "user_expressions": {},
                "payload": [],
                "status": "ok",
                **more,
                "execution_count": cell.shown_count,
            }
        session = await self._waits.until(far.session(for_cell=True))
        python = self._source.as_python(code) if far is self._far and await self._is_mini(session) else code
        self._publisher.belongs(cell.request_id, session)
        if far is self._far:
            self._commands.sessions.caution(cell.request_id, session)
        self._sides.runs(cell.request_id, far)
        options |= more | {"raw": None if python == code else code}
        async with self._commands.profiling(session, cell.request_id, profiled):
            answer = self._waits.begin(lambda: session.execute(cell.request_id, python, **options))
            cell.remember()
            reply = await asyncio.wrap_future(answer)
        reply = self._publisher.rendering(session).reply(cell.request_id, reply)
        if any(one.get("source") == "ask_exit" for one in reply.get("payload") or () if isinstance(one, dict)):
            self._publisher.stream(cell.request_id, "stdout", EXIT_WORDS)
        if reply.get("status") not in ("ok", "error", "aborted"):
            raise UnsafeAnswer(session.location, "a cell that has ended without saying how")
        count = reply.get("execution_count")
        if cell.counts and type(count) is int and cell.count < count < MOST_CELLS:
            self._far.count = max(self._far.count, count + 1)  # a session that had run cells already
            return reply
        return dict(reply, execution_count=cell.shown_count)

    def _error(self, cell: Execution, ename: str, evalue: str) -> dict[str, Any]:
        """Words of ours in place of a result; they may quote what a server said."""
        ename, evalue = plain_text(ename), plain_text(evalue)
        content = {"ename": ename, "evalue": evalue, "traceback": [f"\x1b[0;31m{ename}\x1b[0m: {evalue}"]}
        if not cell.silent:
            self._publisher.message(cell.request_id, "error", content)
        return dict(content, status="error", execution_count=cell.shown_count, user_expressions={}, payload=[])

    async def _route(self, execution: Execution, code: str) -> tuple[FarSide | None, str, dict[str, Any]]:
        """Carry out the ``%flame`` lines of a cell. Returns the side on which the rest runs, the rest, and how it runs
        (see ``Session.execute``). If nothing is left to run: None, "", and fields of the reply."""
        request_id, lines = execution.request_id, code.split("\n")
        if lines[0].strip() == LOCAL:
            return self._sides.get_local(), "\n".join(lines[1:]), {}
        parent = self.get_parent()
        ask = self._prompts.asker(request_id, parent, self._parent_ident["shell"])
        cell = Cell(
            request_id,
            parent["header"].get("session", ""),
            ask,
            lambda: self._sides.runs(request_id, self._far),
            lambda moves: (self._dispatch.moving.add if moves else self._dispatch.moving.discard)(request_id),
        )
        rest, followed = await self._commands.of_cell(lines, cell)
        if rest is not None:
            await self._commands.sessions.before_cell(cell, execution.counts)
            how = How(execution.silent, execution.counts, execution.count)
            reply = await self._commands.groups.cell(cell, rest, how)
            if reply is None:
                seen = execution.counts and not execution.silent
                await self._commands.check_rails(cell, "\n".join(rest), self._dispatch, seen, "trial" in followed)
            rest, followed = (rest, followed) if reply is None else (None, reply)
        return (None if rest is None else self._far), "\n".join(rest or ()), followed

    async def _is_mini(self, session: Session) -> bool:
        ready = await self._waits.until(session.ready)
        return bool(ready.get("shell") == "mini")

    def _send(self, stream: Any, msg_type: str, content: dict[str, Any], parent: Any, ident: Any) -> None:
        if self.session is not None:
            self.session.send(stream, msg_type, content, parent, ident)

    def _send_iopub(
        self, msg_type: str, content: dict[str, Any], parent: dict[str, Any], *, topic: str | None = None, **more: Any
    ) -> None:
        if self.session is not None:
            self.session.send(
                self.iopub_socket, msg_type, content, parent=parent, ident=self._topic(topic or msg_type), **more
            )

    def _publish_execute_input(self, code: str, parent: Any, execution_count: int) -> None:
        """As ipykernel's: for all front ends, so without the key in a command line; with the number of the reply."""
        if not parent["content"].get("store_history", True) or not code.strip():
            execution_count -= 1
        super()._publish_execute_input(without_key(code), parent, execution_count)  # type: ignore[no-untyped-call, unused-ignore]

    # -- the editor's questions --------------------------------------------------------------------------------------

    async def do_complete(self, code: str, cursor_pos: int | None) -> dict[str, Any]:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#completion"""
        at = len(code) if cursor_pos is None else max(0, min(cursor_pos, len(code)))
        return await self._editor.complete(code, at)

    async def do_inspect(
        self, code: str, cursor_pos: int | None, detail_level: int = 0, omit_sections: Any = ()
    ) -> dict[str, Any]:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#introspection"""
        at = len(code) if cursor_pos is None else cursor_pos
        return await self._editor.inspect(code, at, detail_level, tuple(omit_sections))

    async def do_is_complete(self, code: str) -> dict[str, Any]:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#code-completeness"""
        return self._source.is_complete(code)

    async def do_history(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#history"""
        return self._history.reply(*args, **kwargs)

    async def usage_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """The far side's host, process, CPU and memory, not the kernel's."""
        reply = await self._editor.ask(lambda session: session.usage(uuid.uuid4().hex), {})
        self._send(stream, "usage_reply", reply, parent, ident)

    # -- comms -------------------------------------------------------------------------------------------------------

    async def _comm(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages"""
        with self._dispatch.status(parent):
            await self._comms.deliver(parent, ident)

    async def comm_info_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#comm-info"""
        content = await self._comms.info(parent["content"].get("target_name"))
        self._send(stream, "comm_info_reply", content, parent, ident)

    # -- interrupt, subshells, the end -------------------------------------------------------------------------------

    def pre_handler_hook(self) -> None:
        """No KeyboardInterrupt into our event loop: SIGINT is forwarded instead."""

    def post_handler_hook(self) -> None:
        """See pre_handler_hook."""

    def _interrupt(self) -> list[Future[Any]]:
        self._waits.stop()
        self._commands.groups.press()
        return self._sides.interrupt()

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#kernel-interrupt"""
        await answered(self._interrupt())
        self._send(stream, "interrupt_reply", {"status": "ok"}, parent, ident)

    async def create_subshell_request(self, socket: Any, ident: Any, parent: Any) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#create-subshell

        The far side begins a thread for it, or does so with the first message for it. Nobody waits for that here: until
        the reply comes a front end sends its comm messages to the main shell, where they wait for the cell.
        """
        name = self.shell_channel_thread.create()
        if self._far.own is not None:
            self._far.own.open_lane(name)
        self._send(socket, "create_subshell_reply", {"status": "ok", "subshell_id": name}, parent, ident)

    async def delete_subshell_request(self, socket: Any, ident: Any, parent: Any) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#delete-subshell

        What still runs there goes on to its end.
        """
        name = str(parent["content"].get("subshell_id") or "")
        try:
            self.shell_channel_thread.delete(name)
        except UnknownSubshellError as e:
            content = {"status": "error", "evalue": str(e)}
        else:
            content = {"status": "ok"}
            if self._far.own is not None:
                self._far.own.close_lane(name)
        self._send(socket, "delete_subshell_reply", content, parent, ident)

    async def list_subshell_request(self, socket: Any, ident: Any, parent: Any) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#list-subshells"""
        content = {"status": "ok", "subshell_id": self.shell_channel_thread.names()}
        self._send(socket, "list_subshell_reply", content, parent, ident)

    async def shutdown_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#kernel-shutdown

        As ipykernel's, but for the order at the end: there the main loop, and iopub with it, may end before the control
        thread has published its idle status, and then that thread, and the process, hang for ten seconds.
        """
        if self.session is None:
            return
        content = await self.do_shutdown(parent["content"]["restart"])
        self.session.send(stream, "shutdown_reply", content, parent, ident=ident)
        self._shutdown_message = self.session.msg("shutdown_reply", content, parent)
        await self._at_shutdown()
        control: Any = self.control_thread.io_loop
        control.add_callback(self.io_loop.add_callback, self.io_loop.stop)
        control.add_callback(control.stop)

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """The session ends on the far side with all it runs, so that a restart begins with fresh names; but one that
        was given a name lives on when the kernel is shut down for good."""
        if not restart:
            self._memory.forget()
        self._waits.stop()
        groups = asyncio.get_running_loop().run_in_executor(None, self._commands.groups.close, restart)
        await asyncio.gather(self._sides.close(keep_named=not restart), groups)
        try:
            self._history.close()
        except Exception:  # a disk that is full must not keep the kernel from ending
            self.log.warning("the history was not written", exc_info=True)
        return {"status": "ok", "restart": restart}
