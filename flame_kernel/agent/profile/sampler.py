"""A sampling profiler: a thread of ours takes the stacks of this process's threads many times a second.

Nothing is traced or patched. Only the interpreter's switch interval is shorter while the sampler waits, unless several
threads compute: with the usual 5 ms, a thread that computes would keep it waiting, and most samples would fall where a
thread gives up the interpreter of its own accord. That still happens to code that runs for less than that interval
between two calls that give it up, such as input and output: its time is counted at those calls. Each sample counts for
the time since the sample before it:

    wall  all of the time, also for threads that wait
    cpu   the CPU time of the thread, as the system counts it
    gil   the same, but not for a thread that runs while the sampler holds the interpreter: it is in C code that has
          released the interpreter. If there is more to run than there are CPUs, some of that time is still counted

A C call that does not release the interpreter delays the next sample, which then counts for the whole delay.
"""

import asyncio
import contextlib
import linecache
import os
import sys
import threading
import time

from .. import own, threads
from . import folded

CELL, ALL, THREAD, TASKS = "cell", "all", "thread", "tasks"
SCOPES = (CELL, ALL, THREAD, TASKS)
WALL, CPU, GIL = "wall", "cpu", "gil"
MODES = (WALL, CPU, GIL)
# The largest share of one CPU that a sampler may use: if each sample takes long, it takes fewer.
MOST_CPU = 0.02
# The same where several threads compute: for each sample they then lose some eight times its CPU time, by waiting for
# the interpreter and for being given it again, so that this is 2 % of theirs.
MOST_SHARED = 0.0025
MOST_RATE, MOST_SECONDS = 1000.0, 3600.0
# The fractional parts of its multiples are spread evenly between 0 and 1.
GOLDEN = 0.6180339887498949
# The switch interval while it waits, in seconds, by whether several threads compute: then it stays as it is, because
# they too would interrupt each other that often. None: the system does not tell.
SWITCHES = {False: 0.0001, True: None, None: 0.001}
# Threads compute if all together use more than this share of the time; several do, if all but the busiest one use more
# than this share of that.
BUSY, OTHERS = 0.2, 0.3
# When the rate and the switch interval are adjusted: after so many samples, and then after so many seconds each time.
FIRST, REVIEW = 5, 0.2
# How many different stacks are counted separately. They differ by position in the bytecode, not only by line.
MOST_KEYS = 50000
# Seconds that the profile of a cell waits for the cell to begin.
CELL_PATIENCE = 60.0
# Seconds for which we watch whether a thread runs without the interpreter.
LOOK = 0.00003
# What is told if it took less than this share of the samples because several threads compute.
SLOWED = 0.8
FEWER = "%.0f samples a second, not %g: several threads compute there, and lose about 2 %% this way"
OVER = "it was over before the first sample"
# A thread that used less than this share of its time stood still.
STILL = 0.01
# How many tasks are looked at, and calls of each.
MOST_TASKS, DEEPEST = 2000, 100


class Sampler:
    """One profile of this process.

    scope    CELL (``request``, or all running cells), ALL, THREAD (``thread``, a name or number), or TASKS; empty: the
             running cells, or ALL if none runs
    lanes    returns ``{thread id: (request id or None, awaited coroutine or None)}`` for the threads of cells; None if
             the session has ended, which ends the profile
    is_cell  whether a frame runs code of a cell
    cell_of  returns the cell's name for the file name of a cell; None for any other file
    """

    def __init__(self, lanes, is_cell, cell_of, scope="", mode=WALL, rate=100.0, thread="", request="", idle=False):
        if not scope:
            scope = CELL if any(request for request, _ in (lanes() or {}).values()) else ALL
        if scope not in SCOPES or mode not in MODES:
            raise ValueError(
                "the scope of a profile is one of %s, its mode one of %s" % (", ".join(SCOPES), ", ".join(MODES))
            )
        if not 1 <= rate <= MOST_RATE:
            raise ValueError("the rate is from 1 to %d samples a second" % MOST_RATE)
        if mode != WALL and not _clock_works():
            raise ValueError("this system does not tell the CPU time of a thread; use --wall")
        self._lanes, self._is_cell, self._cell_of = lanes, is_cell, cell_of
        self.scope, self.mode, self.rate = scope, mode, rate
        self._thread, self._request, self._idle = thread, request, idle
        self._counted = {}  # (thread, code ids and positions) -> seconds
        self._codes = {}  # id -> (code, whether it is a cell's); keeping the code prevents another from getting its id
        self._cpu = {}  # thread object -> CPU seconds at the last sample
        self._begun = {}  # thread object -> CPU seconds at its first sample
        self._loops = []
        self._lane_names = set()  # names of the threads that run cells
        self._switch, self._used, self._several = None, {}, None  # the switch interval None: the process's own
        self._cpu_before = 0.0  # of this thread, before the first sample
        self._over = threading.Lock()  # free when the profile is to end
        self._over.acquire()
        self.samples, self._lost, self.cost, self.seconds, self.note = 0, 0.0, 0.0, 0.0, ""

    def stop(self):
        """End the profile: ``run`` returns soon."""
        with contextlib.suppress(RuntimeError):  # it was free already
            self._over.release()

    def run(self, seconds):
        """Sample for so many seconds, or until ``stop`` is called or the thread or cell ends."""
        if self.scope == TASKS:
            self._loops = _loops()
        if self.scope == CELL and self._request and not self._cell_begins():
            self.note = OVER if self._is_over() else "the cell did not begin"
            return
        begun = base = time.monotonic()
        self._several = self._several_compute(begun)
        self._cpu_before, interval, done = _own_cpu(), min(1.0 / self.rate, seconds), 0
        until = begun + min(seconds, MOST_SECONDS)
        while True:
            if base + done * interval >= until:
                self._wait(until - time.monotonic())
                break
            # One sample in each interval, but at a varying point of it: otherwise a loop in step with the samples
            # would always be met at the same line.
            due = base + (done + self.samples * GOLDEN % 1.0) * interval
            if self._wait(min(due, until) - time.monotonic()):
                break
            now = time.monotonic()
            reached = max(done + 1, int((now - base) / interval) + 1)
            if not self._sample((reached - done) * interval):
                break
            done = reached
            self.samples += 1
            if now >= until:
                break
            if self.samples == FIRST or now - base >= REVIEW:
                base, done = base + done * interval, 0
                interval = self._review(now)
        self.cost, self.seconds = _own_cpu() - self._cpu_before, max(time.monotonic() - begun, 1e-9)
        self.note = "; ".join(filter(None, (self.note, self._seen_less())))

    def _review(self, now):
        """Adjust the switch interval to what computes there; returns the interval between samples, by their cost."""
        self._several = self._several_compute(now)
        self._switch, most = SWITCHES[self._several], MOST_SHARED if self._several else MOST_CPU
        return max(1.0 / self.rate, (_own_cpu() - self._cpu_before) / self.samples / most)

    def _seen_less(self):
        """Why it took fewer samples than it should, for the user; empty if it did not."""
        if not self.samples:
            return "" if self.note else OVER
        if self._several and self.samples < SLOWED * self.rate * self.seconds:
            return FEWER % (self.samples / self.seconds, self.rate)
        return ""

    def _wait(self, seconds):
        """Wait for the next sample; returns whether the profile is over. The switch interval is short meanwhile, but
        not while a sample is taken, which the other threads would interrupt again and again."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, self._switch or interval))
        ours = sys.getswitchinterval()
        try:  # by one call in C: Python's own waiting would be interrupted, too
            is_over = self._over.acquire(True, seconds) if seconds > 0 else self._over.acquire(False)
        finally:
            if sys.getswitchinterval() == ours:  # unless someone else has set it meanwhile
                sys.setswitchinterval(interval)
        if is_over:
            self._over.release()
        return is_over

    def _several_compute(self, now):
        """Whether more than one thread has computed since this was last asked; None if that is unknown."""
        before, self._used = self._used, {thread: (now, _cpu_of(thread)) for thread in threading.enumerate()}
        shares = [
            (cpu - before[thread][1]) / max(at - before[thread][0], 1e-9)
            for thread, (at, cpu) in self._used.items()
            if cpu is not None and before.get(thread, (at, None))[1] is not None
        ]
        if not shares:
            return None
        return sum(shares) > BUSY and sum(shares) - max(shares) > OTHERS * sum(shares)

    def _cell_begins(self):
        """Wait for the cell; False if it does not come, or is over already."""
        until, self._switch = time.monotonic() + CELL_PATIENCE, SWITCHES[False]
        while not self._wait(0.001):
            lanes = self._lanes()
            if lanes is None or time.monotonic() > until:
                return False
            if any(request == self._request for request, _ in lanes.values()):
                self._switch = None
                return True
        return False

    def _is_over(self):
        """Whether ``stop`` was called."""
        is_over = self._over.acquire(False)
        if is_over:
            self._over.release()
        return is_over

    # -- one sample --------------------------------------------------------------------------------------------------

    def _sample(self, elapsed):
        """Take one sample and count the time since the last one; False if there is nothing left to sample."""
        lanes = self._lanes()
        if lanes is None:
            return False
        if self.scope == TASKS:
            self._sample_tasks(elapsed)
            return True
        me, found, counted = threading.get_ident(), False, []
        known = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in threads.frames().items():
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
        """The frames of a stack; for a cell that awaits, those of its coroutines."""
        return _awaited(awaits) if awaits is not None and self.mode == WALL else _outermost_first(frame)

    def _wanted(self, ident, thread, is_lane, request):
        if self.scope == CELL:
            return request is not None and self._request in ("", request)
        if self.scope == THREAD:
            return self._thread in (str(ident), getattr(thread, "name", None))
        return request is not None if is_lane else not getattr(thread, "is_pydev_daemon_thread", False)

    def _missing(self):
        """Called if no thread was sampled: returns whether to go on; raises ValueError if there never was one."""
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
        """The seconds to count for a thread in this sample."""
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
        """The key under which a stack is counted: the thread's name, then the code's id and position of each frame."""
        key, codes = [name], self._codes
        for frame in steps:
            code = frame.f_code
            number = id(code)
            if number not in codes:
                codes[number] = code, self._is_cell(frame)
            key.append(number)
            key.append(frame.f_lasti)  # turned into a line at the end, because that takes long
        return tuple(key)

    def _count(self, key, seconds):
        if key in self._counted or len(self._counted) < MOST_KEYS:
            self._counted[key] = self._counted.get(key, 0.0) + seconds
        else:
            self._lost += seconds

    # -- the result --------------------------------------------------------------------------------------------------

    def content(self):
        """What is sent: that of ``folded.Folded.content``, and how it was measured."""
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
        """The call at a position of a code object, in the form that ``Folded`` takes."""
        code, _ = self._codes[number]
        file, line = code.co_filename, _line_at(code, position)
        cell = self._cell_of(file)
        if cell:  # linecache knows its text by the file name, but the cell's name is shown
            result.texts[cell, line] = linecache.getline(file, line)
        return getattr(code, "co_qualname", code.co_name), cell or file, line

    def _users(self, steps, is_lane):
        """The calls of the user and of libraries in a stack of ``((code, whether it is a cell's), call)``; empty for a
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
        """Remove the threads that stood in one place all the time; returns each with its place, in words."""
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
    """Whether a call is ours but lies between the user's calls, as those for output and for the work of pools do."""
    return own.is_file(code.co_filename) and "/output/" in code.co_filename


def _outermost_first(frame):
    """The frames of a stack, the outermost first."""
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
    """The line number for a position in a code object."""
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
    """The asyncio loops that run in this process, found in the frames of their ``run_forever``."""
    found = []
    for frame in threads.frames().values():
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
    """The CPU seconds that a thread has used; None if unknown, also for a thread that has ended."""
    native = getattr(thread, "native_id", None)
    if native is None or not sys.platform.startswith("linux"):
        return None
    try:
        return time.clock_gettime((~native << 3) | 6)  # Linux's clock number: CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED
    except (OSError, AttributeError, OverflowError):
        return None


def _clock_works():
    return _cpu_of(threading.current_thread()) is not None


def _own_cpu():
    """The CPU seconds of the calling thread."""
    try:
        return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
    except (AttributeError, OSError):
        return 0.0


def _without_those_that_run(counted):
    """The ``(thread, key, seconds)`` of threads that use no CPU time while this one holds the interpreter."""
    before, begun = [_cpu_of(thread) for thread, _, _ in counted], time.perf_counter()
    while time.perf_counter() - begun < LOOK:
        pass
    seen = time.perf_counter() - begun
    return [one for one, cpu in zip(counted, before) if cpu is None or (_cpu_of(one[0]) or 0.0) - cpu < seen / 2]
