"""A sampling profiler: takes the stacks of this process's threads many times a second, on a thread of ours.

Nothing is traced or patched. Meanwhile the interpreter's switch interval is shorter, and is put back at the end: the
sampler has to wait for a thread that computes, and with the usual 5 ms it would come most often where a thread waits,
and gives the interpreter up of itself. What is counted is the time between two samples:

    wall  all time, of threads that wait too
    cpu   the CPU time that the system has counted for the thread
    gil   the same, without threads that go on running while the sampler has the interpreter: they are in C code that
          has released it. On a machine with more to do than it has CPUs, some of that is counted all the same

A C call that lets no other code run delays the sample behind it, which counts for all of that time.
"""

import asyncio
import linecache
import os
import sys
import threading
import time

from .. import own
from . import folded

CELL, ALL, THREAD, TASKS = "cell", "all", "thread", "tasks"
SCOPES = (CELL, ALL, THREAD, TASKS)
WALL, CPU, GIL = "wall", "cpu", "gil"
MODES = (WALL, CPU, GIL)
# The most that a sampler may use of one CPU: where samples are dear, it takes fewer.
MOST_CPU = 0.02
MOST_RATE, MOST_SECONDS = 1000.0, 3600.0
# Its multiples are spread evenly between whole numbers.
GOLDEN = 0.6180339887498949
# The switch interval while it runs, in seconds.
SWITCH = 0.0001
# After how many samples the rate is looked at again.
REVIEW = 20
# Different stacks that are counted apart while it runs. They differ by position in the code, not only by line.
MOST_KEYS = 50000
# Seconds that a profile of one cell waits for it to begin.
CELL_PATIENCE = 60.0
# Seconds in which a thread shows whether it runs without the interpreter.
LOOK = 0.00003
# A thread that used less than this share of its time stood still.
STILL = 0.01
# How many tasks are looked at, and calls of each.
MOST_TASKS, DEEPEST = 2000, 100


class Sampler:
    """One profile of this process.

    scope    CELL (``request``, or all cells that run), ALL, THREAD (``thread``, a name or number), or TASKS; empty: the
             cells that run, or ALL where none does
    lanes    returns ``{thread id: (request id or None, coroutine that is awaited or None)}`` of threads that run cells;
             None when the session has ended, and the profile with it
    is_cell  whether a frame runs code of a cell
    cell_of  the name of the cell whose code a file name stands for, None for others
    """

    def __init__(self, lanes, is_cell, cell_of, scope="", mode=WALL, rate=100.0, thread="", request="", idle=False):
        if not scope:
            scope = CELL if any(request for request, _ in (lanes() or {}).values()) else ALL
        if scope not in SCOPES or mode not in MODES:
            raise ValueError("a profile is of %s, in %s" % (", ".join(SCOPES), ", ".join(MODES)))
        if not 1 <= rate <= MOST_RATE:
            raise ValueError("the rate is from 1 to %d samples a second" % MOST_RATE)
        if mode != WALL and not _clock_works():
            raise ValueError("this system does not tell the CPU time of a thread; use --wall")
        self._lanes, self._is_cell, self._cell_of = lanes, is_cell, cell_of
        self.scope, self.mode, self.rate = scope, mode, rate
        self._thread, self._request, self._idle = thread, request, idle
        self._counted = {}  # (thread, code ids and positions) -> seconds
        self._codes = {}  # id -> (code, whether it is a cell's); the code is kept so that the id stays its own
        self._cpu = {}  # thread object -> CPU seconds at the last sample
        self._begun = {}  # thread object -> CPU seconds at its first sample
        self._loops = []
        self._lane_names = set()  # of the threads that run cells
        self._over = threading.Event()
        self.samples, self._lost, self.cost, self.seconds, self.note = 0, 0.0, 0.0, 0.0, ""

    def stop(self):
        """End it; ``run`` returns soon."""
        self._over.set()

    def run(self, seconds):
        """Sample for so long, or until ``stop``, or the end of the thread or the cell that is looked at."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, SWITCH))
        ours = sys.getswitchinterval()
        try:
            self._run(seconds)
        finally:
            if sys.getswitchinterval() == ours:  # nobody else has set it meanwhile
                sys.setswitchinterval(interval)

    def _run(self, seconds):
        if self.scope == TASKS:
            self._loops = _loops()
        if self.scope == CELL and self._request and not self._cell_begins():
            self.note = "the cell did not begin"
            return
        begun = base = time.monotonic()
        used, interval, done = _own_cpu(), 1.0 / self.rate, 0
        until = begun + min(seconds, MOST_SECONDS)
        while True:
            # One sample in each interval, every time at another point of it: a loop of the same rhythm is seen whole.
            due = base + (done + self.samples * GOLDEN % 1.0) * interval
            if self._over.wait(max(0.0, due - time.monotonic())):
                break
            now = time.monotonic()
            reached = max(done + 1, int((now - base) / interval) + 1)
            if not self._sample((reached - done) * interval):
                break
            done = reached
            self.samples += 1
            if now >= until:
                break
            if self.samples % REVIEW == 0:
                base, done = base + done * interval, 0
                interval = max(1.0 / self.rate, (_own_cpu() - used) / self.samples / MOST_CPU)
        self.cost, self.seconds = _own_cpu() - used, max(time.monotonic() - begun, 1e-9)
        if not self.samples and not self.note:
            self.note = "it was over before the first sample"

    def _cell_begins(self):
        until = time.monotonic() + CELL_PATIENCE
        while not self._over.wait(0.001):
            lanes = self._lanes()
            if lanes is None or time.monotonic() > until:
                return False
            if any(request == self._request for request, _ in lanes.values()):
                return True
        return False

    # -- one sample --------------------------------------------------------------------------------------------------

    def _sample(self, elapsed):
        """Count the time since the last sample; False where there is nothing more to look at."""
        lanes = self._lanes()
        if lanes is None:
            return False
        if self.scope == TASKS:
            self._sample_tasks(elapsed)
            return True
        me, found, counted = threading.get_ident(), False, []
        known = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            thread = known.get(ident)
            request, awaits = lanes.get(ident, (None, None))
            if ident == me or not self._wanted(ident, thread, ident in lanes, request):
                continue
            found = True
            seconds = self._share(thread, elapsed)
            if seconds > 0:
                name = thread.name if thread is not None else "thread %d" % ident
                if ident in lanes:
                    self._lane_names.add(name)
                counted.append((thread, self._key(name, self._steps(frame, awaits)), seconds))
        if self.mode == GIL and counted:
            counted = _without_those_that_run(counted)
        for _, key, seconds in counted:
            self._count(key, seconds)
        return found or self._missing()

    def _steps(self, frame, awaits):
        """The frames of a stack; for a cell that awaits, those down to what it waits for."""
        return _awaited(awaits) if awaits is not None and self.mode == WALL else _outermost_first(frame)

    def _wanted(self, ident, thread, is_lane, request):
        if self.scope == CELL:
            return request is not None and self._request in ("", request)
        if self.scope == THREAD:
            return self._thread in (str(ident), getattr(thread, "name", None))
        return request is not None if is_lane else not getattr(thread, "is_pydev_daemon_thread", False)

    def _missing(self):
        """There is no thread to look at: whether to go on."""
        if self.scope == ALL:
            return True
        if self.scope == THREAD and not self.samples:
            names = ", ".join(sorted({thread.name for thread in threading.enumerate() if not _is_ours(thread)}))
            raise ValueError("there is no thread %s; there are: %s" % (self._thread[:60], names[:500]))
        if self.scope == CELL and not self.samples and not self._request:
            raise ValueError("no cell runs; --all profiles the whole process")
        if not self._request:
            self.note = "the %s ended before the time was over" % self.scope
        return False

    def _share(self, thread, elapsed):
        """The seconds that count for a thread."""
        if self.mode == WALL:
            if thread not in self._begun:
                self._begun[thread] = _cpu_of(thread)
            return elapsed
        now = _cpu_of(thread)
        before, self._cpu[thread] = self._cpu.get(thread, now), now
        return now - before if now is not None and before is not None else 0.0

    def _sample_tasks(self, elapsed):
        for loop in self._loops:
            for coroutine in _coroutines(loop):
                name = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
                self._count(self._key("task %s" % name, _awaited(coroutine)), elapsed)

    def _key(self, name, steps):
        """What a stack is counted under: the thread's name, and of each frame the code's id and the position."""
        key, codes = [name], self._codes
        for frame in steps:
            code = frame.f_code
            number = id(code)
            if number not in codes:
                codes[number] = code, self._is_cell(frame)
            key.append(number)
            key.append(frame.f_lasti)  # becomes a line when all is over: that takes long
        return tuple(key)

    def _count(self, key, seconds):
        if key in self._counted or len(self._counted) < MOST_KEYS:
            self._counted[key] = self._counted.get(key, 0.0) + seconds
        else:
            self._lost += seconds

    # -- the result --------------------------------------------------------------------------------------------------

    def content(self):
        """What is sent: see ``folded.Folded.content``; and how it was taken."""
        result, known = folded.Folded(), {}
        result.left_out = self._lost
        for key, seconds in self._counted.items():
            places = list(zip(key[1::2], key[2::2]))
            for place in places:
                if place not in known:
                    known[place] = self._call(result, *place)
            steps = [(self._codes[place[0]], known[place]) for place in places]
            shown = self._users(steps, key[0] in self._lane_names)
            if shown:
                result.add(key[0], tuple(shown), seconds)
        idle = self._still(result) if self.scope == ALL and self.mode == WALL and not self._idle else []
        taken = {"pid": os.getpid(), "scope": self.scope, "mode": self.mode, "seconds": round(self.seconds, 3)}
        taken.update(samples=self.samples, cost=round(self.cost, 6), note=self.note, idle=idle)
        return dict(result.content(), status="ok", **taken)

    def _call(self, result, number, position):
        """The call at a position of a code object, in the form of ``Folded``."""
        code, _ = self._codes[number]
        file, line = code.co_filename, _line_at(code, position)
        cell = self._cell_of(file)
        if cell:  # linecache knows its text by another name than the one that is shown
            result.texts[cell, line] = linecache.getline(file, line)
        return getattr(code, "co_qualname", code.co_name), cell or file, line

    def _users(self, steps, is_lane):
        """The calls of the user and of libraries in a stack of ``((code, whether it is a cell's), call)``; none for a
        thread of the agent that runs no cells."""
        at = 0
        while at < len(steps) and _begins_a_thread(steps[at][0][0]):
            at += 1
        steps = [step for step in steps[at:] if not _is_see_through(step[0][0])]
        at = next((number for number, ((_, is_cell), _) in enumerate(steps) if is_cell), None)
        ours = [own.is_file(code.co_filename) for (code, _), _ in steps]
        if at is None and True in ours:
            if not is_lane:
                return []
            at = len(ours) - ours[::-1].index(True)
        return [call for (_, call), is_ours in list(zip(steps, ours))[at or 0 :] if not is_ours]

    def _still(self, result):
        """Take the threads out that stood in one place all the time; each with that place, in words."""
        found = []
        for thread, before in list(self._begun.items()):
            name, now = getattr(thread, "name", None), _cpu_of(thread)
            stacks = result.stacks_of(name) if name is not None else ()
            used = now - before if now is not None and before is not None else 0.0
            if len(stacks) == 1 and used < STILL * self.seconds:
                (calls,) = stacks
                result.drop(name)
                found.append("%s: %s, line %d" % (name[:60], calls[-1][0][:60], calls[-1][2]))
        return found[:100]


def _is_ours(thread):
    return getattr(thread, "is_pydev_daemon_thread", False)


def _begins_a_thread(code):
    return code.co_filename == threading.__file__ and code.co_name in ("_bootstrap", "_bootstrap_inner", "run")


def _is_see_through(code):
    """Whether a call is one of ours that stands between the user's: output passes through it, and work of pools."""
    return own.is_file(code.co_filename) and "/output/" in code.co_filename


def _outermost_first(frame):
    """The frames of a stack."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


def _awaited(coroutine):
    """The frames of a coroutine, down to what it waits for."""
    frames = []
    while coroutine is not None and len(frames) < DEEPEST:
        frame = below = None
        for kind, name in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            if hasattr(coroutine, kind + "_frame"):
                frame, below = getattr(coroutine, kind + "_frame"), getattr(coroutine, "%s_%s" % (kind, name))
        if frame is None:
            break
        frames.append(frame)
        coroutine = below
    return frames


def _line_at(code, position):
    """The line of a position in a code object."""
    found = code.co_firstlineno
    if hasattr(code, "co_lines"):
        for start, end, line in code.co_lines():
            if start <= position < end:
                return line or found
        return found
    address = 0
    for step, change in zip(code.co_lnotab[0::2], code.co_lnotab[1::2]):
        address += step
        if address > position:
            break
        found += change - 256 if change > 127 else change
    return found


def _loops():
    """The asyncio loops that run in threads of this process, as their ``run_forever`` knows them."""
    found = []
    for frame in sys._current_frames().values():
        while frame is not None:
            code = frame.f_code
            if code.co_name == "run_forever" and "asyncio" in code.co_filename:
                found.append(frame.f_locals.get("self"))
            frame = frame.f_back
    return [loop for loop in found if loop is not None]


def _coroutines(loop):
    """The coroutines of a loop's tasks."""
    try:
        every = asyncio.all_tasks if hasattr(asyncio, "all_tasks") else asyncio.Task.all_tasks
        tasks = list(every(loop))[:MOST_TASKS]
    except RuntimeError:  # tasks start and end too quickly to list them
        return []
    found = [task.get_coro() if hasattr(task, "get_coro") else getattr(task, "_coro", None) for task in tasks]
    return [coroutine for coroutine in found if coroutine is not None]


# -- the CPU time of threads -----------------------------------------------------------------------------------------


def _cpu_of(thread):
    """The CPU seconds that a thread has used; None if unknown. The clock of an ended thread is an error, no crash."""
    native = getattr(thread, "native_id", None)
    if native is None or not sys.platform.startswith("linux"):
        return None
    try:
        return time.clock_gettime((~native << 3) | 6)  # the kernel's clock of a thread, CPUCLOCK_SCHED by thread
    except (OSError, AttributeError, OverflowError):
        return None


def _clock_works():
    return _cpu_of(threading.current_thread()) is not None


def _own_cpu():
    """The CPU seconds of the thread that calls."""
    try:
        return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
    except (AttributeError, OSError):
        return 0.0


def _without_those_that_run(counted):
    """``(thread, key, seconds)`` without the threads that use CPU time while this one has the interpreter."""
    before, begun = [_cpu_of(thread) for thread, _, _ in counted], time.perf_counter()
    while time.perf_counter() - begun < LOOK:
        pass
    seen = time.perf_counter() - begun
    return [one for one, cpu in zip(counted, before) if cpu is None or (_cpu_of(one[0]) or 0.0) - cpu < seen / 2]
