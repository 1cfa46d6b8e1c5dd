"""The current stacks of a session's cells and of all other threads in its process. Nothing is stopped to get them.

They show the frames of the user's code and of libraries: for a cell its own and those inside it, for another thread all
but its first ones, which are of ``threading``.  The agent's own frames are left out, and so are threads that run only
the agent.
"""

import asyncio
import linecache
import os
import re
import threading
import time

from ... import own
from ...threads import frames as frames_now

# How many frames of one stack are shown, at its beginning and at its end; and how many stacks.
FIRST, LAST = 20, 80
MOST_STACKS = 200
MAX_SOURCE = 500  # longest source line, in characters
MAX_CALL = 60  # longest part of it that is shown as the call


def where(host):
    """The content of a where_reply: ``{"status", "pid", "place", "stacks": [stack, …], "left_out"}``.

    A stack is ``{"kind": "cell" | "thread" | "task", "name", "state", "since", "frames"}``, cells first; ``since`` is
    in seconds and only for cells; ``state`` is ``running``, ``waiting``, ``awaiting``, or empty if unknown. A frame is
    ``{"file", "line", "name", "source"}``, the outermost first, or ``{"left_out": N}``.
    """
    cells, threads = [], []
    frames, me = frames_now(must=True), threading.get_ident()
    lanes = {lane.thread_id: lane for lane in list(host.lanes.values())}
    known = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in frames.items():
        lane, thread = lanes.get(ident), known.get(ident)
        if lane is not None and lane.request is not None:
            cells.append(_cell(host, lane, thread, frame))
        elif ident != me:
            shown = _users_frames(host, _outermost_first(frame), thread)
            if shown:
                name = thread.name if thread is not None else "thread %d" % ident
                threads.append(_stack(host, "thread", name, _state(thread), shown))
    for lane in lanes.values():
        threads.extend(_tasks(host, lane))
    frames = frame = None
    cells.sort(key=lambda one: one["name"])
    stacks = cells + threads
    return {
        "status": "ok",
        "pid": os.getpid(),
        "place": host.place.name,
        "stacks": stacks[:MOST_STACKS],
        "left_out": max(0, len(stacks) - MOST_STACKS),
    }


def call(host, lane):
    """The call that a lane's cell is in, in words: ``time.sleep, line 4``."""
    inner = ""
    for frame, line in reversed(_of_lane(lane, frames_now().get(lane.thread_id))):
        code = frame.f_code
        if frame.f_globals is host.namespace.__dict__:
            named = _exactly(frame, line) or call_at(linecache.getline(code.co_filename, line or 0))
            return "%s, line %d" % (named or inner or "Python code", line or 0)
        if not own.has(frame):
            inner = inner or "%s.%s" % (frame.f_globals.get("__name__", "?"), code.co_name)
    return inner or "Python code"


def is_held(lane):
    """Whether a debugger is holding a lane's thread at a breakpoint."""
    frame, depth = frames_now().get(lane.thread_id), 0
    while frame is not None and depth < 10:
        if frame.f_code.co_name == "_do_wait_suspend":
            return True
        frame, depth = frame.f_back, depth + 1
    return False


def call_at(line):
    """The call in a source line: ``time.sleep`` for ``x = time.sleep(100)``; if there are several, the line itself."""
    calls = re.findall(r"([A-Za-z_][\w.]*)\s*\(", line or "")
    line = (line or "").strip()
    return (calls or [""])[0] if len(calls) < 2 else line if len(line) <= MAX_CALL else line[: MAX_CALL - 1] + "…"


def _exactly(frame, line):
    """The call that a frame is in, found by the column of its bytecode; empty if unknown (before Python 3.11).

    ``time.sleep`` for ``time.sleep(100)``: without its arguments.
    """
    try:
        start, end, first, last = list(frame.f_code.co_positions())[frame.f_lasti // 2]
        text = linecache.getline(frame.f_code.co_filename, line).encode("utf-8")
        if start == end == line:
            return _called(text[first:last].decode("utf-8"))
    except (AttributeError, IndexError, TypeError, ValueError):
        pass
    return ""


def _called(text):
    """``f(1).wait`` for ``f(1).wait(2)``; empty for text that is not a call."""
    depth = 0
    for at in range(len(text) - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(text[at], 0)
        if not depth:
            return text[:at] if text[at] == "(" and at <= MAX_CALL else ""
    return ""


def _cell(host, lane, thread, frame):
    steps = _of_lane(lane, frame)
    state = "awaiting" if lane.awaits is not None else _state(thread)
    name = {"": "cell", "~": "call"}.get(lane.name[:1], "subshell %s" % lane.name)
    shown = _users_frames(host, steps, None, is_lane=True)
    return dict(_stack(host, "cell", name, state, shown), since=round(time.monotonic() - lane.since, 1))


def _of_lane(lane, frame):
    """``(frame, line)`` of a lane's stack, outermost first; for a cell that awaits, down to what it awaits."""
    awaits = lane.awaits
    return _outermost_first(frame) if awaits is None else _awaited(awaits)


def _outermost_first(frame):
    steps = []
    while frame is not None:
        steps.append((frame, frame.f_lineno))
        frame = frame.f_back
    return steps[::-1]


def _awaited(coroutine):
    """The frames of a suspended coroutine, down to what it waits for."""
    steps = []
    for _ in range(FIRST + LAST):
        frame = None
        for kind, below in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            if hasattr(coroutine, kind + "_frame"):
                frame, following = getattr(coroutine, kind + "_frame"), getattr(coroutine, "%s_%s" % (kind, below))
        if frame is None:
            break
        steps.append((frame, frame.f_lineno))
        coroutine = following
    return steps


def _tasks(host, lane):
    """The tasks that cells have left running in a lane's loop."""
    try:
        every = asyncio.all_tasks if hasattr(asyncio, "all_tasks") else asyncio.Task.all_tasks
        tasks = [task for task in every(lane.loop) if not task.done()]
    except RuntimeError:  # tasks start and end too quickly to list them
        return []
    found = []
    for task in tasks:
        coroutine = task.get_coro() if hasattr(task, "get_coro") else getattr(task, "_coro", None)
        shown = _users_frames(host, _awaited(coroutine), None)
        if shown and not getattr(coroutine, "cr_running", False):
            name = task.get_name() if hasattr(task, "get_name") else "task"
            found.append(_stack(host, "task", name, "awaiting", shown))
    return found


def _users_frames(host, steps, thread, is_lane=False):
    """The frames of a stack that belong to the user or a library; none for a thread of the agent."""
    # The first frames of every thread are those of ``threading``, which tell nothing.
    at = 0
    while at < len(steps) and _begins_a_thread(steps[at][0]):
        at += 1
    steps = steps[at:]
    ours = [own.has(frame) for frame, _ in steps]
    cells = [f.f_globals is host.namespace.__dict__ or _name(f).startswith("flame_session_") for f, _ in steps]
    if True in cells:
        at = cells.index(True)
    elif True in ours:
        if not is_lane:
            return []
        at = len(ours) - ours[::-1].index(True)
    elif getattr(thread, "is_pydev_daemon_thread", False):
        return []
    else:
        at = 0
    return [step for step, own in zip(steps[at:], ours[at:]) if not own]


def _begins_a_thread(frame):
    code = frame.f_code
    return code.co_filename == threading.__file__ and code.co_name in ("_bootstrap", "_bootstrap_inner", "run")


def _name(frame):
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _stack(host, kind, name, state, steps):
    frames = [_frame(host, frame, line) for frame, line in _cut(steps)]
    return {"kind": kind, "name": str(name), "state": state, "since": None, "frames": shortened(frames, len(steps))}


def _cut(steps):
    return steps if len(steps) <= FIRST + LAST else steps[:FIRST] + steps[-LAST:]


def shortened(frames, count):
    """``frames``, of which there were ``count``, with a mark in place of those that were left out."""
    left_out = count - len(frames)
    return frames if left_out <= 0 else frames[:FIRST] + [{"left_out": left_out}] + frames[FIRST:]


def _frame(host, frame, line):
    code = frame.f_code
    source = linecache.getline(code.co_filename, line or 0, frame.f_globals).strip()
    cell = host.shell and host.shell.cell_name(code.co_filename)
    return described(cell or code.co_filename, line, code.co_name, source)


def described(file, line, name, source):
    """One frame in the form that is sent."""
    return {"file": file, "line": line or 0, "name": name, "source": source[:MAX_SOURCE]}


def _state(thread):
    """Whether a thread is running or waiting, according to the system; empty if it does not say."""
    native = getattr(thread, "native_id", None)
    try:
        with open("/proc/self/task/%d/stat" % native) as f:
            return "running" if f.read().rpartition(")")[2].split()[0] == "R" else "waiting"
    except (OSError, TypeError, IndexError):
        return ""
