"""Where a child's code is when its interpreter is stuck: its stacks, and what the system says about its process.

While a C call holds the interpreter lock (GIL), none of the child's Python code runs, including the agent's.
``faulthandler`` does not need the lock: on a signal it writes all stacks into the pipe that is also used for a crash.
"""

import linecache
import os
import re
import signal
import time

from ... import own, pipes
from ...profile import folded
from ...shell import compiler
from ..monitor import stacks

# The signal on which the child writes its stacks; others hardly use it. None if the system has no such signals.
DUMP_SIGNAL = signal.SIGRTMAX - 5 if hasattr(signal, "SIGRTMAX") else None
# Seconds to wait for the first bytes of a dump, and seconds of silence that mean its end.
DUMP_PATIENCE, DUMP_QUIET = 1.0, 0.05
# Seconds between two dumps of a profile.
PROFILE_EVERY = 0.1
# Bytes after which reading from a pipe stops: more than a pipe holds.
MOST = 1 << 20

_THREAD = re.compile(r"(Current thread|Thread) (0x[0-9a-f]+)")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_CELL = re.compile(r"(\d+)(-\d+)?\.py$")  # a cell's file name, see ``compiler``
_STATES = {
    "T": "its process is stopped (SIGSTOP)",
    "t": "its process is held by a debugger",
    "D": "it is blocked in the system, perhaps by a disk, and cannot be stopped",
}


def dump(pid, pipe):
    """All stacks of a child, which it writes into ``pipe``; empty if it does not."""
    if not _catches(pid, DUMP_SIGNAL):
        return ""  # it is starting, or is another program now: the signal would kill it
    _drain(pipe, 0)
    try:
        os.kill(pid, DUMP_SIGNAL)
    except OSError:
        return ""
    return _drain(pipe, DUMP_PATIENCE)


def _catches(pid, sign):
    """Whether a process has a handler for a signal; False if that is unknown."""
    try:
        with open("/proc/%d/status" % pid) as f:
            for line in f:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (sign - 1) & 1)
    except (OSError, ValueError, TypeError, IndexError):
        pass
    return False


def rest_of(pipe):
    """The data that a dead child has left in a pipe; closes the pipe."""
    try:
        return _drain(pipe, 0)
    finally:
        os.close(pipe)


def _drain(pipe, patience):
    data, until = b"", time.monotonic() + patience
    while len(data) < MOST:
        ready = pipes.ready([pipe], DUMP_QUIET if patience else 0)
        part = os.read(pipe, 1 << 16) if ready else b""
        data += part
        if not part and (ready or data or time.monotonic() >= until):
            break
    return data.decode("utf-8", "replace")


def read_stacks(text, code, texts=()):
    """The stacks in a ``faulthandler`` dump, in the form of ``stacks.where``.

    ``code`` is the text of the running cell, ``texts`` are those of earlier cells.
    """
    found = _threads_in(text)
    earlier = {}
    if any(_CELL.match(os.path.basename(file)) for _, frames in found for file, _, _ in frames):
        earlier = {str(compiler.murmur2(one)): one for one in texts}
    cells, threads = [], []
    for name, frames in found:
        is_main = _is_main(frames, len(found) == 1)
        shown = _users_frames(frames, is_main)
        if not shown:
            continue
        described = [_frame(one, code, is_main and at == 0, earlier) for at, one in enumerate(shown)]
        stack = {"kind": "cell" if is_main else "thread", "name": "cell" if is_main else "thread " + name}
        stack.update(state="", since=None, frames=stacks.shortened(described, len(described)))
        (cells if is_main else threads).append(stack)
    return cells + threads


def without_ours(text):
    """The lines of a dump without the agent's frames and the child's start-up code."""
    lines = [(line, _FRAME.match(line)) for line in text.splitlines()]
    return [
        line for line, frame in lines if not (frame and (own.is_file(frame.group(1)) or frame.group(1) == "<string>"))
    ]


def of_the_user(text):
    """The lines of a dump without threads that run only the agent, and without the frames around a cell."""
    is_only = len(_threads_in(text)) == 1
    kept = []
    for block in text.split("\n\n"):
        lines, threads = block.splitlines(), _threads_in(block)
        if len(threads) == 1:
            frames = threads[0][1]
            shown = _users_frames(frames, _is_main(frames, is_only))
            if not shown and not block.startswith("Current"):
                continue
            if shown:
                lines = [line for line in lines if not _FRAME.match(line) or _frame_in(_FRAME.match(line)) in shown]
        kept += [""] + lines
    return kept[1:]


def _threads_in(text):
    """``[(thread, [(file, line, function), …]), …]`` of a dump; the outermost frame comes first."""
    found = []
    for line in text.splitlines():
        thread, frame = _THREAD.match(line), _FRAME.match(line)
        if thread is not None:
            found.append((thread.group(2), []))
        elif frame is not None and found:
            found[-1][1].insert(0, _frame_in(frame))
    return found


def _frame_in(match):
    return match.group(1), int(match.group(2)) if match.group(2).isdigit() else 0, match.group(3)


def _is_main(frames, is_only):
    """Whether a thread is the one that runs cells."""
    if any(function == "run_on_main" for _, _, function in frames):
        return True
    return is_only and not any(own.is_file(file) for file, _, _ in frames)


def _users_frames(frames, is_main):
    ours = [own.is_file(file) for file, _, _ in frames]
    at = 0
    if is_main:
        for at, (file, _, function) in enumerate(frames):
            if function.startswith(("<module>", "<cell")) and True in ours[:at] and not os.path.exists(file):
                break
        else:
            at = len(ours) - ours[::-1].index(True) if True in ours else 0
    elif True in ours:
        return []
    return [one for one, is_ours in zip(frames[at:], ours[at:]) if not is_ours and not one[2].startswith("_bootstrap")]


def _frame(one, code, is_first, earlier):
    file, number, function = one
    cell = _CELL.match(os.path.basename(file))
    text = code if is_first else ""
    if not text and cell is not None and not os.path.exists(file):
        text = earlier.get(cell.group(1), "")
    lines = text.splitlines()
    if 0 < number <= len(lines):
        return stacks.described("the cell" if text == code else "a cell", number, function, lines[number - 1].strip())
    return stacks.described(file, number, function, linecache.getline(file, number).strip())


def call(found):
    """Where the cell is, such as ``re.match, line 3``; empty if unknown."""
    for stack in found:
        if stack["kind"] == "cell" and stack["frames"]:
            first, last = stack["frames"][0], stack["frames"][-1]
            return "%s, line %d" % (stacks.call_at(first["source"]) or last["name"], first["line"])
    return ""


def state(pid):
    """Why a process is not running, in words, if the system says so; else empty."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return _STATES.get(f.read().rpartition(")")[2].split()[0], "")
    except (OSError, IndexError):
        return ""


class Profile:
    """A profile from outside: ``look`` returns the stacks of ``read_stacks``, and why that was needed in words."""

    def __init__(self, pid, look):
        self._pid, self._look = pid, look
        self._folded = folded.Folded()

    def take(self, seconds, goes_on):
        """The content of a profile_reply, after so many seconds, or as soon as ``goes_on()`` is False."""
        begun = last = time.monotonic()
        samples, why = 0, ""
        while goes_on() and last < begun + seconds:
            time.sleep(PROFILE_EVERY)
            found, why = self._look()
            now = time.monotonic()
            for stack in found:
                frames = [frame for frame in stack["frames"] if "file" in frame]
                self._folded.texts.update(((frame["file"], frame["line"]), frame["source"]) for frame in frames)
                calls = tuple((frame["name"], frame["file"], frame["line"]) for frame in frames)
                self._folded.add(stack["name"], calls, now - last)
            last, samples = now, samples + 1
        taken = {"status": "ok", "pid": self._pid, "scope": "all", "mode": "wall", "samples": samples, "cost": 0.0}
        return dict(self._folded.content(), seconds=round(last - begun, 3), idle=[], note=why, **taken)
