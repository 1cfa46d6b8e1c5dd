"""Shows the output of a ``%%flame`` cell in that cell and no other, while we wait for the cell and afterwards.

While a thread waits for the cell, it shows the events by IPython's own means (``sys.stdout``, the display publisher,
the display hook), so ``%%capture`` and the like see them.  Before and after that, the session's events thread shows
them: in a kernel as messages whose parent is the cell's own header, in a terminal as text above the prompt.

Messaging: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from ..errors import FlameError, SessionGone
from ..profile.holders import Holders
from ..profile.profile import Profile
from ..security.rendering import WIDGET
from ..session.inbox import Event
from ..session.screen import show
from ..session.user import catch_interrupts, in_notebook, next_of
from ..terminal import plain_text
from .comms import Relay

# Most characters that wait to be shown; beyond that, the session's events thread waits.
AHEAD = 8_000_000

_NO_WIDGETS = "[widgets of the far side show as text here: there is no front end that could show them]\n"


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """A context. IPython shows an error of ours that is raised in it as one line: a traceback of our code would not
    help a user.

    An error with a traceback of the far side is shown with that.
    """
    try:
        yield
    except (FlameError, KeyboardInterrupt) as error:
        if not hasattr(error, "_render_traceback_"):
            words = str(error)
            if isinstance(error, SessionGone):  # a new session is opened only if the user asks for it
                words = f"the session at {error.location} is gone: {error.reason}; %flame connect begins a new one"
            text = f"\x1b[0;31m{type(error).__name__}\x1b[0m" + (f": {plain_text(words)}" if words else "")
            error._render_traceback_ = lambda: [text]  # type: ignore[union-attr]
        raise error from None


class Shown:
    """The representations of a cell's value on the far side; IPython shows them as the value's own."""

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self.data = data
        self.metadata = metadata

    def __repr__(self) -> str:
        return str(self.data.get("text/plain", "<a value of the far side>"))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.data, self.metadata


class Way(Protocol):
    """A way to show things in a notebook or a terminal. ``updates``: whether a display can be changed in place."""

    @property
    def updates(self) -> bool: ...

    def write(self, name: str, text: str) -> None:
        """Text of the stream ``stdout`` or ``stderr``."""

    def display(self, content: dict[str, Any], update: bool) -> None:
        """A ``display_data``, or an update of an earlier one."""

    def clear(self, wait: bool) -> None:
        """Clear what is shown: at once, or when new output comes."""

    def result(self, shown: Shown) -> None:
        """The cell's value, as Out."""

    def error(self, content: dict[str, Any]) -> None:
        """An error that is not raised."""

    def comm(self, event: Event, relay: Relay) -> None:
        """A message of a comm, for the front end."""


class ShellWay:
    """Shows by IPython's own means, on the thread on which the cell runs."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.updates = getattr(shell, "kernel", None) is not None

    def write(self, name: str, text: str) -> None:
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()

    def display(self, content: dict[str, Any], update: bool) -> None:
        data, metadata, transient = (content.get(part) or {} for part in ("data", "metadata", "transient"))
        self._shell.display_pub.publish(data, metadata, transient=transient, update=update)

    def clear(self, wait: bool) -> None:
        self._shell.display_pub.clear_output(wait)

    def result(self, shown: Shown) -> None:
        sys.displayhook(shown)

    def error(self, content: dict[str, Any]) -> None:
        kernel = getattr(self._shell, "kernel", None)
        if kernel is None:
            self.write("stderr", "\n".join(map(str, content.get("traceback") or ())) + "\n")
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            MessageWay(kernel, self._shell).error(content)

    def comm(self, event: Event, relay: Relay) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        MessageWay(self._shell.kernel, self._shell).comm(event, relay)


class MessageWay:
    """Sends messages to the cell that ran when this was made; from any thread, at any time."""

    updates = True

    def __init__(self, kernel: Any, shell: Any) -> None:
        self._kernel = kernel
        self._parent = kernel.get_parent("shell")
        self._count = shell.displayhook.prompt_count

    def _send(self, msg_type: str, content: dict[str, Any], topic: str | None = None, **more: Any) -> None:
        kernel = self._kernel
        ident = kernel._topic(topic or msg_type)
        kernel.session.send(kernel.iopub_socket, msg_type, content, parent=self._parent, ident=ident, **more)

    def write(self, name: str, text: str) -> None:
        self._send("stream", {"name": name, "text": text}, f"stream.{name}")

    def display(self, content: dict[str, Any], update: bool) -> None:
        self._send("update_display_data" if update else "display_data", content)

    def clear(self, wait: bool) -> None:
        self._send("clear_output", {"wait": wait})

    def result(self, shown: Shown) -> None:
        content = {"data": shown.data, "metadata": shown.metadata, "execution_count": self._count}
        self._send("execute_result", content)

    def error(self, content: dict[str, Any]) -> None:
        self._send("error", {part: content.get(part) for part in ("ename", "evalue", "traceback")})

    def comm(self, event: Event, relay: Relay) -> None:
        header = self._parent.get("header") or {}
        passed = relay(event, str(header.get("msg_id", "")))
        if passed is not None:
            content, more = passed["content"], {part: passed.get(part) for part in ("metadata", "buffers")}
            self._send(passed["type"], content, f"comm-{content['comm_id']}", **more)


class TextWay:
    """Writes text to a terminal from the background, above the prompt if there is one."""

    updates = False

    def write(self, name: str, text: str) -> None:
        stream = sys.stderr if name == "stderr" else sys.stdout
        # At the end of the program the stream may be closed already.
        with contextlib.suppress(ValueError, OSError):
            stream.write(text)
            stream.flush()

    def display(self, content: dict[str, Any], update: bool) -> None:
        text = (content.get("data") or {}).get("text/plain")
        if text is not None:
            self.write("stdout", f"{text}\n")

    def clear(self, wait: bool) -> None:
        """A terminal cannot clear output."""

    def result(self, shown: Shown) -> None:
        self.write("stdout", f"{shown}\n")

    def error(self, content: dict[str, Any]) -> None:
        self.write("stderr", "\n".join(map(str, content.get("traceback") or ())) + "\n")

    def comm(self, event: Event, relay: Relay) -> None:
        """A terminal shows no widgets."""


def background_way(shell: Any) -> Way:
    """A way to write into the current cell, also later, when another cell runs."""
    kernel = getattr(shell, "kernel", None)
    return TextWay() if kernel is None else MessageWay(kernel, shell)


class IPythonScreen:
    """The screen for one cell's output, which shows by one `Way`; displays get ids of their own, and views of widgets
    are shown only if they can be."""

    def __init__(self, way: Way, output: CellOutput, raised: bool) -> None:
        self._way = way
        self._output = output
        self._raised = raised  # the waiting thread raises the cell's error

    def stream(self, name: str, text: str) -> None:
        self._way.write(name, text)

    def display(self, content: dict[str, Any], update: bool) -> None:
        self._way.display(self._output.local(content), update=update)

    def result(self, content: dict[str, Any]) -> None:
        content = self._output.local(content)
        shown = Shown(content["data"], content["metadata"])
        self._output.values.append(shown)
        self._way.result(shown)

    def error(self, content: dict[str, Any]) -> None:
        self._output.error = content
        if not self._raised:
            self._way.error(content)

    def clear(self, wait: bool) -> None:
        self._way.clear(wait)

    def comm(self, event: Event) -> None:
        relay = self._output.relay
        if relay is not None:
            self._way.comm(event, relay)
        elif not self._output.told:
            self._output.told = True
            self._way.write("stderr", _NO_WIDGETS)

    def other(self, event: Event) -> None:
        if event["type"] == "link":
            self._output.show_link(self._way, event["content"]["sentence"])


class Interrupt:
    """Ctrl-C was pressed while the output was followed."""


class CellOutput:
    """The output of one cell: call ``event`` on the events thread, and ``follow`` on the thread that waits for the
    cell.

    shell     the InteractiveShell of the cell that runs now
    prefix    makes display ids of this session unlike those of any other in the same notebook
    ask       called on the thread that waits with an ``input_request``'s content; answers it
    refuse    called with the same if nobody waits, so that nobody can be asked
    waited    whether ``follow`` will be called
    relay     passes on this session's comms; None if no front end can show widgets
    apart     whether it belongs to no cell: what is shown is sent as messages of the current request
    """

    def __init__(
        self,
        shell: Any,
        prefix: str,
        ask: Callable[[dict[str, Any]], None],
        refuse: Callable[[dict[str, Any]], None],
        waited: bool,
        relay: Relay | None = None,
        apart: bool = False,
    ) -> None:
        self._prefix = prefix
        self.relay = relay
        self._ask = ask
        self._refuse = refuse
        self._waited = waited
        away = background_way(shell)
        self._way: Way = away if apart else ShellWay(shell)
        self._away = IPythonScreen(away, self, raised=False)
        self._here = self._away if apart else IPythonScreen(self._way, self, raised=True)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.RLock()  # held while the background shows an event: one at a time, in order
        self._room = threading.Condition(threading.Lock())
        self._waiting = 0  # characters in the queue
        self._followed = waited  # whether the waiting thread shows events, from the queue
        self.told = False
        self._link: str | None = None  # the id of the display that shows a broken link
        self.error: dict[str, Any] | None = None  # the content of the cell's error
        self.values: list[Shown] = []  # the values that were shown

    # -- the events thread -------------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Take one event of the cell; waits for room if the thread that shows events is slow."""
        with self._lock:
            if event["type"] == "input_request" and not self._waited:
                self._refuse(event["content"])
                return
            if not self._followed and event["type"] != "input_request":
                show(event, self._away)
                return
            size = _size(event)
            with self._room:
                self._waiting += size
            self._queue.put((event, size))
        with self._room:
            self._room.wait_for(lambda: self._waiting < AHEAD or not self._followed)

    def link(self, sentence: str | None) -> None:
        """The link broke, or is back (None); on one of the session's threads."""
        self.event({"type": "link", "content": {"sentence": sentence}})

    # -- the thread that waits ---------------------------------------------------------------------------------------

    def follow(
        self,
        reply: Future[Any],
        interrupt: Callable[[int], bool],
        seconds: float | None = None,
        late: Callable[[], float | None] = lambda: None,
    ) -> bool:
        """Show the cell's events here until ``reply`` is done; returns whether it is.

        interrupt   called with 1, 2, … for each Ctrl-C; if it returns False, we stop waiting
        seconds     after which ``late`` is called; it returns the seconds until the next time, None to stop waiting

        Later output still appears in this cell, in the background.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        presses = 0
        reply.add_done_callback(lambda done: self._queue.put((None, 0)))
        try:
            with catch_interrupts(lambda: self._queue.put((Interrupt, 0))) as give_back:
                while True:
                    try:
                        event, size = next_of(self._queue, deadline)
                    except queue.Empty:
                        more = late()
                        if more is None:
                            return reply.done()
                        deadline = time.monotonic() + more
                        continue
                    if event is None:
                        return True
                    if event is Interrupt:
                        presses += 1
                        if not interrupt(presses):
                            return reply.done()
                        continue
                    try:
                        if event["type"] == "input_request":
                            with give_back(), self.background():
                                self._ask(event["content"])
                        else:
                            show(event, self._here)
                    except KeyboardInterrupt:  # in input(): there Ctrl-C ends the prompt
                        self._queue.put((Interrupt, 0))
                    finally:
                        with self._room:
                            self._waiting -= size
                            self._room.notify_all()
        finally:
            self.leave()

    def leave(self) -> None:
        """No thread waits any more: show the rest in the background."""
        with self._lock:
            self._waited = False
            self._let_go()

    @contextlib.contextmanager
    def background(self) -> Iterator[None]:
        """A context in which the waiting thread does something else, and the events thread shows the output."""
        self._let_go()
        try:
            yield
        finally:
            with self._lock:
                self._followed = True

    def _let_go(self) -> None:
        with self._lock:
            self._followed = False
            sys.stdout.flush()
            sys.stderr.flush()
            with self._room:
                self._room.notify_all()
            kept = []
            while True:
                try:
                    event, size = self._queue.get_nowait()
                except queue.Empty:
                    break
                if not isinstance(event, dict) or (event["type"] == "input_request" and self._waited):
                    kept.append((event, size))
                    continue
                with self._room:
                    self._waiting -= size
                if event["type"] == "input_request":
                    self._refuse(event["content"])
                else:
                    show(event, self._away)
            for one in kept:
                self._queue.put(one)

    # -- one event ---------------------------------------------------------------------------------------------------

    def show_link(self, way: Way, sentence: str | None) -> None:
        """Show a line about the link, and remove it when the link is back; a terminal gets one line for each."""
        if self._link is None and sentence is None:
            return
        first, display_id = self._link is None, self._link or uuid.uuid4().hex
        self._link = display_id if sentence else None
        if way.updates:
            content = {"data": {"text/plain": sentence or ""}, "metadata": {}, "transient": {"display_id": display_id}}
            way.display(content, update=not first)
        elif first or sentence is None:
            way.write("stderr", f"{sentence or 'the link is back'}\n")

    def show(self, event: Event) -> None:
        """Show an event on the calling thread, which is the cell's."""
        show(event, self._here)

    def show_error(self, content: dict[str, Any]) -> None:
        """Show an error that is not raised, on the thread that waited."""
        self._way.error(content)

    def local(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a display for this notebook: with ids of its own, without views of widgets that it cannot
        show."""
        data, metadata, transient = (
            dict(part) if isinstance(part := content.get(name), dict) else {}
            for name in ("data", "metadata", "transient")
        )
        if WIDGET in data and self.relay is None:
            del data[WIDGET]
            data.setdefault("text/plain", "[a widget]")
        if "display_id" in transient:
            transient["display_id"] = f"{self._prefix}/{transient['display_id']}"
        return {"data": data, "metadata": metadata, "transient": transient}


def _size(event: Event) -> int:
    content = event["content"]
    if event["type"] == "stream":
        return len(str(content.get("text"))) + 1
    data = content.get("data")
    return sum(len(v) for v in data.values() if isinstance(v, str)) + 1 if isinstance(data, dict) else 1


def show_drawn(shell: Any, what: Profile | str) -> None:
    """Show a profile or holders in the cell that runs: drawn in a notebook, as words in a terminal. Or words only."""
    if in_notebook() and isinstance(what, Profile | Holders):
        shell.display_pub.publish(what.bundle())
    else:
        print(plain_text(str(what)))
