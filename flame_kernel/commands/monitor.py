"""Shows what a session's far side is doing, also while cells run: stacks, figures, watched values.

If no answer comes in time, that is shown instead: while a call holds the interpreter, nothing there can answer.
"""

from __future__ import annotations

import contextlib
import html
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

from ..connect.units import size_in_words, time_in_words
from ..errors import FlameError, SessionGone, UnsafeAnswer
from ..security import answers
from ..session.session import Session
from ..terminal import plain_text

# Seconds to wait for an answer. A child's server notices after 3 s that the child does not answer, and tells so.
PATIENCE = 6.0
# How to see all stacks.
ALL = "%flame where --all"

Bundle = dict[str, Any]  # MIME types and data


class Shown(str):
    """Text that a prompt shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def where(session: Session, everything: bool = False, more: str = "") -> str:
    """Where the cells of ``session`` are, with source lines, the outermost call first; with ``everything`` also all
    threads and tasks, otherwise ``more`` says how to see them. Nothing is stopped. Raises FlameError."""
    return where_text(answer(session, "where"), everything, session.location, more)


def top(session: Session) -> str:
    """The resources of the process of ``session``: CPU, memory, threads, open files, subprocesses. Raises
    FlameError."""
    return top_text(answer(session, "top"), session.location)


def answer(session: Session, kind: str, **fields: Any) -> dict[str, Any]:
    """The reply to a request; raises FlameError with the reason if none comes in time."""
    try:
        return checked(session.request(kind, **fields).result(PATIENCE))
    except futures.TimeoutError:  # not the built-in one before Python 3.11
        raise FlameError(f"no answer from {session.location} within {PATIENCE:g} s: {silence(session)}") from None


def silence(session: Session) -> str:
    """Why a far side may not answer, in words."""
    if session.trouble is not None:
        return str(session.trouble)
    return "a call there may hold the interpreter (GIL), so that nothing else runs in that process"


def checked(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply; raises its error if it is one."""
    if reply.get("status") != "ok":
        raise FlameError(f"{reply.get('evalue') or reply.get('ename') or 'no answer'}")
    return reply


# -- stacks


def where_text(reply: dict[str, Any], everything: bool, location: str, more: str = ALL) -> str:
    """A where_reply as text."""
    answers.reply("where", reply, location)
    try:
        parts = _cells(reply) + _others(reply, everything, more)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsafeAnswer(location, f"stacks of the wrong shape ({error})") from None
    return plain_text("\n\n".join(parts))


def _cells(reply: dict[str, Any]) -> list[str]:
    """The stacks of running cells; the first one with its process."""
    place = {"child": "a child of the server"}.get(reply["place"], "the server's own process")
    head = f"pid {int(reply['pid'])}, {place}"
    cells = [stack for stack in reply["stacks"] if stack["kind"] == "cell"]
    parts = [_stack(stack, head if stack is cells[0] else "") for stack in cells] or [f"no cell runs ({head})"]
    return [f"seen from outside, as {reply['note']}", *parts] if reply.get("note") else parts


def _others(reply: dict[str, Any], everything: bool, more: str) -> list[str]:
    """The stacks of threads and tasks; or their number, and that ``more`` shows them."""
    others = [stack for stack in reply["stacks"] if stack["kind"] != "cell"]
    left_out = int(reply.get("left_out") or 0)
    if everything:
        return [_stack(stack, "") for stack in others] + ([f"[{left_out} more left out]"] if left_out else [])
    count = len(others) + left_out
    if not others:
        return []
    return [f"{count} more thread{'s or tasks' if count > 1 else ' or task'}" + (f": {more}" if more else "")]


def _stack(stack: dict[str, Any], head: str) -> str:
    named = {"cell": f"{stack['name']}", "task": f"task {stack['name']}"}.get(stack["kind"], f"thread {stack['name']}")
    facts = [head, stack["state"] or ""]
    if isinstance(stack.get("since"), (int, float)):
        facts.append(f"for {time_in_words(stack['since'])}")
    lines = [": ".join(part for part in (named, ", ".join(fact for fact in facts if fact)) if part)]
    for frame in stack["frames"]:
        if "left_out" in frame:
            lines.append(f"  [{int(frame['left_out'])} more calls]")
            continue
        lines.append(f"  {_short(str(frame['file']))}, line {int(frame['line'])}, in {frame['name']}")
        if frame["source"]:
            lines.append(f"      {frame['source']}")
    return "\n".join(lines)


def _short(path: str) -> str:
    """The end of a long path, which distinguishes files."""
    parts = path.split("/")
    return path if len(parts) < 5 or len(path) < 60 else "…/" + "/".join(parts[-3:])


# -- figures


def top_text(reply: dict[str, Any], location: str) -> str:
    """A top_reply as text."""
    answers.reply("top", reply, location)
    try:
        lines = (
            _usage(reply)
            + gpu_lines(reply.get("gpus") or ())
            + _threads(reply)
            + _subprocesses(reply)
            + _open_files(reply)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsafeAnswer(location, f"figures of the wrong shape ({error})") from None
    return plain_text("\n".join(lines))


def _usage(reply: dict[str, Any]) -> list[str]:
    machine = f"{reply.get('cpus') or '?'} CPUs, load {', '.join(map(str, reply.get('load') or ['?']))}"
    used, total = reply.get("machine_memory") or (None, None)
    of = f"(machine: {size_in_words(used)} of {size_in_words(total)} used)" if total else ""
    return [
        f"pid {int(reply['pid'])} on {reply['host']}, up {time_in_words(float(reply.get('age') or 0))}",
        f"CPU     {float(reply.get('cpu') or 0):6.1f} % of one CPU    (machine: {machine})",
        f"memory  {size_in_words(reply.get('memory')):>10}           {of}".rstrip(),
    ]


def gpu_lines(gpus: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each GPU there: how busy it is, its memory, and what of both is the process's."""
    lines = []
    for number, one in enumerate(gpus):
        busy = f", {int(one['busy'])} % busy" if one.get("busy") is not None else ""
        mine = f" and {int(one['mine_busy'])} % of its time" if one.get("mine_busy") else ""
        memory = f"{size_in_words(one['used'])} of {size_in_words(one['total'])} used"
        lines.append(
            f"GPU {number}   {one['name']}{busy}, {memory}, {size_in_words(one['mine'])}{mine} by this process"
        )
    return lines


def _threads(reply: dict[str, Any]) -> list[str]:
    shown = reply.get("threads") or []
    lines = [f"  {float(one['cpu']):6.1f} %  {one['name']} ({one['id']})" for one in shown]
    return [f"threads {int(reply.get('thread_count') or 0)}", *lines, *_more(reply.get("busy_count"), shown)]


def _subprocesses(reply: dict[str, Any]) -> list[str]:
    shown = reply.get("children") or []
    lines = [
        f"  {float(one['cpu']):6.1f} %  {size_in_words(one['memory']):>10}  {one['name']} (pid {one['pid']})"
        for one in shown
    ]
    return [f"subprocesses {int(reply.get('child_count') or 0)}", *lines, *_more(reply.get("child_count"), shown)]


def _open_files(reply: dict[str, Any]) -> list[str]:
    shown = reply.get("files") or []
    others = ", ".join(f"{int(count)} {name}" for name, count in (reply.get("others") or {}).items())
    head = f"open files {int(reply.get('file_count') or 0)}" + (f"; and {others}" if others else "")
    return [head, *(f"  {one}" for one in shown), *_more(reply.get("file_count"), shown)]


def _more(count: Any, shown: list[Any]) -> list[str]:
    left_out = (count if isinstance(count, int) else 0) - len(shown)
    return [f"  [{left_out} more]"] if left_out > 0 else []


# -- watched values


def watch_bundle(expression: str, reply: dict[str, Any]) -> tuple[Bundle, Bundle]:
    """Data and metadata of a display for a watch_reply: all representations of the value, its text with the
    expression."""
    if reply.get("status") != "ok":
        text = f"{expression}: {reply.get('ename') or 'error'}: {reply.get('evalue') or ''}".rstrip(": ")
        return {"text/plain": plain_text(text)}, {}
    data, metadata = reply.get("data"), reply.get("metadata")
    data = dict(data) if isinstance(data, dict) else {}
    text = str(data.get("text/plain", ""))
    data["text/plain"] = f"{expression} =\n{text}" if "\n" in text else f"{expression} = {text}"
    return data, dict(metadata) if isinstance(metadata, dict) else {}


# -- live


class View:
    """A display that is updated in place, on its own thread, until ``end`` or the end of its session.

    name    what it shows, for people
    kind    kind of the request;  fields  its further fields
    bundle  makes data and metadata from a reply
    show    called with an event: a display_data, then an update_display_data for each change
    """

    def __init__(
        self,
        session: Session,
        name: str,
        kind: str,
        fields: dict[str, Any],
        bundle: Callable[[dict[str, Any]], tuple[Bundle, Bundle]],
        show: Callable[[dict[str, Any]], None],
        every: float,
    ) -> None:
        self.name = name
        self._session = session
        self._kind, self._fields, self._bundle = kind, fields, bundle
        self._show = show
        self._every = every
        self.shown = threading.Event()  # something was shown
        self._id = uuid.uuid4().hex
        self._last: tuple[Bundle, Bundle] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flame-view", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<View {self.name}, every {self._every:g} s>"

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def end(self) -> None:
        """Stop updating; the display says so."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def wait(self) -> None:
        """Wait until it is over."""
        while not self._over.wait(0.1):
            pass

    def _run(self) -> None:
        why = "ended"
        try:
            while not self._over.is_set():
                self._renew()
                self._over.wait(self._every)
        except SessionGone as error:
            why = f"ended: {error}"
        except Exception as error:  # the thread's last resort: nobody else would report it
            why = f"ended: {type(error).__name__}: {error}"
        self._over.set()
        with contextlib.suppress(Exception):  # the notebook may be closed already
            self._put(_noted(self._last, f"({plain_text(why)})"))
        self.shown.set()

    def _renew(self) -> None:
        """Ask, and show the answer, or that none came yet."""
        asked, future = time.strftime("%H:%M:%S"), self._session.request(self._kind, **self._fields)
        waited = 0.0
        while not self._over.is_set():
            try:
                reply = future.result(0.1)
            except futures.TimeoutError:
                waited += 0.1
                if waited >= PATIENCE:
                    self._put(_noted(self._last, f"(no answer since {asked}: {silence(self._session)})"), keep=False)
                    waited = 0.0
                continue
            except FlameError as error:
                if self._session.gone is not None:
                    raise
                self._put(_noted(self._last, f"({plain_text(str(error))})"), keep=False)
                return
            try:
                self._put(self._bundle(reply))
            except FlameError as error:
                self._put(_noted(None, f"({error})"))
            return

    def _put(self, shown: tuple[Bundle, Bundle], keep: bool = True) -> None:
        if shown == self._last and keep:
            return
        kind = "display_data" if self._last is None else "update_display_data"
        self._last = shown if keep or self._last is None else self._last
        content = {"data": shown[0], "metadata": shown[1], "transient": {"display_id": self._id}}
        self._show({"type": kind, "content": content})
        self.shown.set()


def _noted(shown: tuple[Bundle, Bundle] | None, note: str) -> tuple[Bundle, Bundle]:
    data = {} if shown is None else shown[0]
    page = {"text/html": f"{data['text/html']}<p>{html.escape(note)}</p>"} if "text/html" in data else {}
    return {"text/plain": f"{data.get('text/plain', '')}\n{note}".strip(), **page}, {}


class Views:
    """The views of one notebook, by what they show; a new view replaces an earlier one of the same thing."""

    def __init__(self) -> None:
        self._views: dict[tuple[str, str], View] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Views {list(self._views.values())}>"

    def begin(
        self,
        session: Session,
        kind: str,
        show: Callable[[dict[str, Any]], None],
        every: float,
        *,
        expression: str = "",
        everything: bool = False,
        cell: str | None = None,
    ) -> View:
        """Show ``where``, ``top`` or the value of an expression (``watch``) every so many seconds."""
        fields = {"expression": expression, "cell": cell} if kind == "watch" else {}

        def bundle(reply: dict[str, Any]) -> tuple[Bundle, Bundle]:
            if kind == "watch":
                return watch_bundle(expression, reply)
            if kind == "top":
                return {"text/plain": top_text(checked(reply), session.location)}, {}
            return {"text/plain": where_text(checked(reply), everything, session.location)}, {}

        return self.show(session, kind, fields, bundle, show, every, expression)

    def show(
        self,
        session: Session,
        kind: str,
        fields: dict[str, Any],
        bundle: Callable[[dict[str, Any]], tuple[Bundle, Bundle]],
        show: Callable[[dict[str, Any]], None],
        every: float,
        expression: str = "",
    ) -> View:
        """A `View`, which replaces an earlier one of that kind, or of the same expression."""
        self.end(kind, expression)
        view = View(session, expression or kind, kind, fields, bundle, show, every)
        with self._lock:
            self._views = {key: one for key, one in self._views.items() if not one.is_over}
            self._views[kind, expression] = view
        return view

    def end(self, kind: str | None = None, expression: str = "") -> list[str]:
        """End the views of a kind, or of one expression; returns their names."""
        with self._lock:
            wanted = [key for key in self._views if kind in (None, key[0]) and expression in ("", key[1])]
            ended = [self._views.pop(key) for key in wanted]
        living = [view for view in ended if not view.is_over]
        for view in living:
            view.end()
        return [view.name for view in living]

    def end_in_words(self, kind: str, expression: str) -> str:
        """The same; returns what was ended, in words."""
        ended = self.end(kind, expression)
        return f"stopped watching {', '.join(ended)}" if ended else "nothing is being watched"
