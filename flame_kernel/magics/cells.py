"""``%%flame``: a cell that runs on a far side, shown here as if it ran here."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from typing import Any

from IPython.core import page

from ..commands import rails, sessions
from ..commands.cell_text import Source
from ..commands.code_words import check_code, identifier
from ..commands.looking import check_alone, trial
from ..commands.parsing import Line
from ..errors import FlameError, RemoteError
from ..group.future import GroupFuture
from ..profile.asking import ProfileOptions, Taking
from ..remote.exceptions import RaisedThere
from ..remote.foreground import show_before
from ..remote.remote import Remote
from ..security.rendering import Rendering
from ..session.inbox import Event
from ..session.screen import allowed
from ..session.session import Session
from ..session.user import ask_line
from ..terminal import coloured_text, plain_text
from .comms import Relay
from .connections import Connections
from .groups import Groups
from .jobs import Job, cell_error
from .output import CellOutput, show_drawn

# How many finished background jobs stay in the list.
LISTED = 50
# Seconds between two Ctrl-C that count as one row; the third Ctrl-C of a row ends the wait.
QUICK = 1.0
# Seconds that a cell may take to end after an interrupt.
STOP_PATIENCE = 3.0

# Events that can be shown again, or to a client that only watches.
_OUTPUT = ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output")

# How the frame of a cell begins in a traceback, with or without colours.
_CELL = re.compile(r"^((?:\x1b\[[0-9;]*m)*Cell(?:\x1b\[[0-9;]*m| )*)In\[(\d{1,9})\]")


class Stopped(KeyboardInterrupt):
    """Ctrl-C stopped a cell; IPython shows where on the far side that was."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(*([content["evalue"]] if content.get("evalue") else ()))
        self._lines = [coloured_text(str(line)) for line in content.get("traceback") or ()]

    def _render_traceback_(self) -> list[str]:
        return self._lines or ["KeyboardInterrupt"]


Stopped.__name__ = Stopped.__qualname__ = "KeyboardInterrupt"


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a ``%%flame`` cell is to run: by its line and the settings. ``seconds`` None: no time limit."""

    line: Line
    background: bool
    raise_error: bool
    seconds: float | None


class Cells:
    """Runs cells for one IPython shell. ``jobs`` are the background jobs, oldest first; ``takeovers`` the clients that
    ask for a session."""

    def __init__(self, shell: Any, connections: Connections) -> None:
        self.jobs: list[Job] = []
        # The clients that ask to take over a session: ids and names.
        self.takeovers: weakref.WeakKeyDictionary[Session, dict[str, str]] = weakref.WeakKeyDictionary()
        self._shell = shell
        self._connections = connections
        self.groups = Groups(shell, connections)
        self._numbers = itertools.count(1)
        self._source = Source()
        # The number that a cell has here, by its session and its number there.
        self._cell_numbers: weakref.WeakKeyDictionary[Session, dict[int, int]] = weakref.WeakKeyDictionary()
        self._renderings: weakref.WeakKeyDictionary[Session, Rendering] = weakref.WeakKeyDictionary()
        self._relays: weakref.WeakKeyDictionary[Session, Relay] = weakref.WeakKeyDictionary()
        self._under_way: dict[str, tuple[Session, CellOutput]] = {}
        self._outputs: weakref.WeakValueDictionary[str, CellOutput] = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Cells {sum(not job.done() for job in self.jobs)} in the background>"

    def run(self, options: RunOptions, code: str) -> Job | GroupFuture | None:
        """Run one ``%%flame`` cell. Returns its job if we do not wait for it, or a future if it runs on several far
        sides.

        Branches because each option of the line does one thing before, beside or after the cell.
        """
        line = options.line
        check_alone(line.values, options.background or self.groups.means(line["target"]))
        if self.groups.means(line["target"]):
            return self.groups.run(
                line,
                code,
                self._local_values(line["in"]),
                background=options.background,
                raise_error=options.raise_error,
                seconds=options.seconds,
            )
        name, remote = self._connections.pick(line["target"])
        pushed = self._local_values(line["in"])
        out = line["out"]
        for wanted in (*line["pull"], *([out] if out else [])):
            identifier(wanted, "variable name")
        check_code(code)
        tried = trial(options.seconds) if line["try"] else None
        print(rails.hold(remote.session, code, tried=line["try"]), end="")
        if pushed:
            remote.push(pushed)
        kept = bool(out or options.background)
        output, job = self._job(name, remote, code, waited=not options.background, keep=kept)
        if out:
            self._shell.user_ns[out] = job
        if options.background:
            self._begin(job, output, remote, line["pull"], options.seconds)
            if line["local"]:
                with output.background():
                    self.groups.run_here(code)
            return None if out else job
        with self._profiling(remote, job.request_id, line["profile"]):
            job.start(allow_stdin=self._can_ask(), trial=tried)
            if line["local"]:
                with output.background():
                    self.groups.run_here(code)
            self._wait(job, remote, output, None if tried else options.seconds, options.raise_error)
        if line["pull"] and (job.error is None):
            self._shell.user_ns.update(remote.pull(line["pull"]))
        return None

    @contextlib.contextmanager
    def _profiling(self, remote: Remote, request_id: str, wanted: bool) -> Iterator[None]:
        """A context for a running cell; at its end the profile is shown, if it is ``wanted``."""
        taking = Taking(remote.session, ProfileOptions(), request_id) if wanted else None
        try:
            yield
        finally:
            if taking is not None:
                show_drawn(self._shell, taking.result())

    def follow(
        self, name: str, remote: Remote, code: str, hide: str = "", tried: dict[str, float] | None = None
    ) -> None:
        """Run ``code`` as a cell without options, and wait for it. Frames with the word ``hide`` are ours, and are left
        out of a traceback. ``tried``: see ``trial``."""
        print(rails.hold(remote.session, code, tried=tried is not None), end="")
        output, job = self._job(name, remote, code, waited=True, keep=False)
        job.start(allow_stdin=self._can_ask(), trial=tried)
        try:
            self._wait(job, remote, output, None, True)
        except RemoteError as e:
            if hide and isinstance(e, RaisedThere):
                e.lines = [line for line in e.lines if hide not in line]
            raise

    def take_up(self, remote: Remote) -> None:
        """Follow the cells that ran when the session was attached, until they end; raises what they raise."""
        for cell, _ in remote.taken_up:
            request_id = cell["request"]
            output, shown = self._output(remote, waited=True), self._shown(remote, request_id)
            self._outputs[request_id] = output
            reply = remote.follow(request_id, _sink(shown, output))

            def interrupt(presses: int, request_id: str = request_id) -> bool:
                remote.interrupt(request_id)
                return presses < 3

            if not output.follow(reply, interrupt):
                raise FlameError(f"the cell does not stop and is no longer followed; it keeps running at {remote.name}")
            content = reply.result()
            if content.get("status") == "ok" or (output.error is None and content.get("status") != "error"):
                continue
            error = output.error or content
            raise Stopped(error) if error.get("ename") == "KeyboardInterrupt" else cell_error(error)

    def viewer(self, remote: Remote) -> Callable[[Event], None]:
        """A function that shows earlier output, or output of another session, in the current cell, on its thread."""
        output, shown = self._output(remote, waited=False), self._shown(remote, "")

        def show(event: Event) -> None:
            allowed = shown(event) if event["type"] in _OUTPUT else None
            if allowed is not None and allowed["type"] == "error":
                output.show_error(allowed["content"])
            elif allowed is not None:
                output.show(allowed)

        return show

    # -- beginning ---------------------------------------------------------------------------------------------------

    def adopt(self, remote: Remote) -> None:
        """Show output of a new remote's library calls in the running cell."""
        rendering = self._rendering(remote)

        def show(event: Event) -> None:
            allowed = rendering.event(event)
            if allowed is not None:
                self._output(remote, waited=False).show(allowed)

        def ask(ask_id: str, client: str) -> None:
            self.takeovers.setdefault(remote.session, {})[ask_id] = client
            content = {"name": "stderr", "text": sessions.asks(client)}
            self._output(remote, waited=False).event({"type": "stream", "content": content})

        remote.show = show
        remote.on_takeover = ask
        remote.on_link = partial(self._on_link, remote.session)

    def _output(self, remote: Remote, waited: bool, apart: bool = False) -> CellOutput:
        rendering, session = self._rendering(remote), remote.session

        def ask(content: dict[str, Any]) -> None:
            before, prompt = rendering.question(content.get("prompt", ""))
            show_before(before)
            session.answer(content["input_id"], ask_line(prompt, bool(content.get("password"))))

        def refuse(content: dict[str, Any]) -> None:
            session.answer(content["input_id"], None)

        return CellOutput(self._shell, session.session_id, ask, refuse, waited, self._relay(remote), apart)

    def screen(self, remote: Remote) -> tuple[Callable[[Event], None], bool]:
        """A function that shows events in the output of the current cell, also after its end; and whether a display
        there can be updated while other cells run, as in a notebook."""
        output, allowed = self._output(remote, waited=False), self._shown(remote, "")
        is_live = hasattr(self._shell, "kernel")

        def show(event: Event) -> None:
            shown = allowed({"request": None, **event})
            if shown is not None and is_live:
                output.event(shown)
            elif shown is not None:
                print(shown["content"]["data"].get("text/plain", ""))

        return show, is_live

    def _relay(self, remote: Remote) -> Relay | None:
        """The `Relay` for the comms of a remote; None if there is no front end, or no comm manager."""
        kernel, session = getattr(self._shell, "kernel", None), remote.session
        if getattr(kernel, "comm_manager", None) is None:
            return None
        if session not in self._relays:
            # Weak: the manager keeps the stand-ins, and these must not keep a connection alive.
            known = weakref.ref(remote)

            def forward(msg_type: str, message: dict[str, Any]) -> None:
                remote = known()
                if remote is not None:
                    self._forward(remote, msg_type, message)

            self._relays[session] = Relay(kernel, forward)
        return self._relays[session]

    def _forward(self, remote: Remote, msg_type: str, message: dict[str, Any]) -> None:
        """Send a message of the front end to a comm of the far side, and show the output until it is done."""
        request_id, lane = message["header"]["msg_id"], message["header"].get("subshell_id")
        output = self._output(remote, waited=True, apart=True)
        shown = self._shown(remote, request_id)
        self._outputs[request_id] = output

        def interrupt(presses: int) -> bool:
            remote.interrupt(request_id)
            return presses < 3

        reply = remote.comm(request_id, msg_type, message, _sink(shown, output), lane)
        if output.follow(reply, interrupt) and reply.exception() is not None:
            text = f"{msg_type} not delivered: {plain_text(str(reply.exception()))}\n"
            output.event({"type": "stream", "content": {"name": "stderr", "text": text}})

    def _shown(self, remote: Remote, request_id: str) -> Callable[[Event], Event | None]:
        """A filter for events, to be called on the session's events thread: what of an event may be shown."""
        rendering = self._rendering(remote)

        def shown(event: Event) -> Event | None:
            if event["type"] == "input_request":
                return event
            return allowed({**event, "request": request_id}, rendering)

        return shown

    def _job(self, name: str, remote: Remote, code: str, *, waited: bool, keep: bool) -> tuple[CellOutput, Job]:
        output = self._output(remote, waited)
        if _is_mini(remote):
            code = self._source.as_python(code)
        request_id = uuid.uuid4().hex
        job = Job(
            next(self._numbers), remote, name, code, self._shown(remote, request_id), output.event, keep, request_id
        )
        self._outputs[job.request_id] = output
        self._under_way[job.request_id] = (remote.session, output)
        job.reply.add_done_callback(lambda done: self._under_way.pop(job.request_id, None))
        return output, job

    def _on_link(self, session: Session, sentence: str | None) -> None:
        """The link of a session broke, or is back (None): its running cells say so."""
        for one, output in list(self._under_way.values()):
            if one is session:
                output.link(None if sentence is None else plain_text(sentence))

    def _rendering(self, remote: Remote) -> Rendering:
        """How much may be shown of what the server of ``remote`` sends."""

        def say(request_id: str | None, sentence: str) -> None:
            output = self._outputs.get(request_id or "")
            if output is not None:
                content = {"name": "stderr", "text": sentence + "\n"}
                output.event({"type": "stream", "request": request_id, "content": content})

        session = remote.session
        if session not in self._renderings:
            self._renderings[session] = session.target.rendering(say, notebook=True)
        return self._renderings[session]

    def _local_values(self, names: list[str]) -> dict[str, Any]:
        values = {}
        for name in names:
            identifier(name, "variable name")
            if name not in self._shell.user_ns:
                raise FlameError(f"there is no variable {name!r} here; -i takes names of variables of this notebook")
            values[name] = self._shell.user_ns[name]
        return values

    def _can_ask(self) -> bool:
        kernel = getattr(self._shell, "kernel", None)
        return True if kernel is None else bool(kernel._allow_stdin)

    # -- in the background -------------------------------------------------------------------------------------------

    def _begin(self, job: Job, output: CellOutput, remote: Remote, pull: list[str], seconds: float | None) -> None:
        over = [one for one in self.jobs if one.done()]
        for one in over[: max(0, len(over) - LISTED)]:
            self.jobs.remove(one)
        self.jobs.append(job)
        lane = f"job-{job.request_id[:12]}"  # it gets its own thread there, so that other cells need not wait
        job.start(allow_stdin=False, lane=lane)
        threading.Thread(
            target=self._attend, args=(job, output, remote, lane, pull, seconds), name="flame-job", daemon=True
        ).start()

    def _attend(
        self, job: Job, output: CellOutput, remote: Remote, lane: str, pull: list[str], seconds: float | None
    ) -> None:
        failure: BaseException | None = None
        try:
            try:
                job.reply.result(seconds)
            except futures.TimeoutError:  # not the built-in one before Python 3.11
                job.cancel(gently=True)
                with contextlib.suppress(futures.TimeoutError):
                    job.reply.result(STOP_PATIENCE)
                if not job.reply.done():
                    job.cancel(gently=True)  # the second time: a call that Python cannot stop is abandoned
                job.reply.result()
            if pull and job.reply.result().get("status") == "ok":
                self._shell.user_ns.update(remote.pull(pull))
        except Exception as e:  # any error: the job is over and reports it
            failure = e
            text = f"job {job.number}: {plain_text(str(e))}\n"
            output.event({"type": "stream", "content": {"name": "stderr", "text": text}})
        job.close_lane(lane)
        job.finish(failure)

    # -- waited for --------------------------------------------------------------------------------------------------

    def _wait(self, job: Job, remote: Remote, output: CellOutput, seconds: float | None, raise_error: bool) -> None:
        overdue = quick = 0
        pressed = 0.0

        def interrupt(presses: int) -> bool:
            nonlocal quick, pressed
            before, pressed = pressed, time.monotonic()
            quick = quick + 1 if pressed - before < QUICK else 1
            if quick < 3:
                job.cancel()
            return quick < 3

        def late() -> float | None:
            nonlocal overdue
            overdue += 1
            job.cancel(gently=True)  # the second time abandons a call that Python cannot stop
            return STOP_PATIENCE if overdue < 3 else None

        ended = output.follow(job.reply, interrupt, seconds, late)
        if not ended:
            self._leave(job)
        failure = job.reply.exception()
        job.finish(failure)
        if failure is not None:
            raise failure
        reply = job.reply.result()
        self._note_number(remote.session, reply.get("execution_count"))
        if overdue:
            raise FlameError(f"the cell did not end within {seconds:g} s on {job.target}, so it was interrupted")
        if output.values and not job.is_tried:
            self._bind_value(job, output.values)
        self._payload(self._rendering(remote).reply(job.request_id, reply))
        if job.error is None:
            return
        error = self._with_our_numbers(remote.session, output.error or reply)
        if not raise_error:
            output.show_error(error)
            return
        if error.get("ename") == "KeyboardInterrupt":
            raise Stopped(error)
        raise cell_error(error)

    def _note_number(self, session: Session, there: Any) -> None:
        """Note that the cell that has just ended has the number ``there`` on the far side."""
        ours = self._cell_numbers.setdefault(session, {})
        if isinstance(there, int):
            ours[there] = self._shell.displayhook.prompt_count

    def _with_our_numbers(self, session: Session, error: dict[str, Any]) -> dict[str, Any]:
        """The error; in its traceback, cells have the numbers that they have here."""
        ours = self._cell_numbers.get(session, {})

        def number(found: re.Match[str]) -> str:
            there = int(found.group(2))
            return f"{found.group(1)}In[{ours.get(there, there)}]"

        lines = error.get("traceback")
        if not isinstance(lines, list):
            return error
        return {**error, "traceback": [_CELL.sub(number, line) if isinstance(line, str) else line for line in lines]}

    def _payload(self, reply: dict[str, Any]) -> None:
        """Carry out the payloads of a reply: show a page (``obj?``), or set the next cell (``%load``)."""
        for payload in reply.get("payload") or ():
            source = payload.get("source") if isinstance(payload, dict) else None
            if source == "page" and isinstance(payload.get("data"), dict):
                page.page(payload["data"], payload.get("start") or 0)
            elif source == "set_next_input" and isinstance(payload.get("text"), str):
                self._shell.set_next_input(payload["text"], replace=False)

    def _leave(self, job: Job) -> None:
        """After repeated Ctrl-C: stop waiting; the cell goes on there, as a job."""
        self.jobs.append(job)
        job.reply.add_done_callback(lambda done: job.finish(done.exception()))
        raise FlameError(
            f"the cell does not stop and is no longer waited for; it is job {job.number} on {job.target} now: "
            "%flame jobs"
        )

    def _bind_value(self, job: Job, shown: list[Any]) -> None:
        """Put the cell's value into ``_`` and ``Out``, in place of the object that showed it."""
        last = shown[-1]
        try:
            value = job.value()
        except FlameError:
            return  # the value itself cannot be sent; its repr was shown
        hook, names = self._shell.displayhook, self._shell.user_ns
        for name in ("_", f"_{hook.prompt_count}"):
            if names.get(name) is last:
                self._shell.push({name: value}, interactive=False)
        if names.get("_oh", {}).get(hook.prompt_count) is last:
            names["_oh"][hook.prompt_count] = value
        if hook._ is last:
            hook._ = value
        if hook.exec_result is not None and hook.exec_result.result is last:
            hook.exec_result.result = value


def _sink(shown: Callable[[Event], Event | None], output: CellOutput) -> Callable[[Event], None]:
    """A sink that passes on the events that may be shown."""

    def sink(event: Event) -> None:
        allowed = shown(event)
        if allowed is not None:
            output.event(allowed)

    return sink


def _is_mini(remote: Remote) -> bool:
    """Whether the far side has no IPython, so that magics must be transformed here."""
    ready = remote.session.ready
    return ready.done() and ready.exception() is None and ready.result().get("shell") == "mini"
