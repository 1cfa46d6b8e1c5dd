"""A request that runs as a program: a script as ``python FILE`` runs it, an expression, or a cell with its own streams.

stdin, stdout and stderr are pipes of its own (see ``program_pipes``).  In a child they are descriptors 0, 1 and 2, so C
code and subprocesses use them too.  If the process belongs to the program alone, it ends like any process: non-daemon
threads are waited for, and exit functions run.

    mode       script, expression or cell
    name       the name of a script's file; arguments: the script's arguments
    ends       whether the session is not used after it: it has no name by which a client could come back
    stdin      whether the client's stdin comes through a pipe; otherwise ``input()`` asks the user
    one_output whether stdout and stderr lead to one file, so that their order is to be kept
"""

import atexit
import contextlib
import functools
import gc
import importlib.machinery
import inspect
import io
import linecache
import os
import sys
import threading
import traceback
import types
import warnings
import weakref

from .. import own, patches, sources
from ..remote import loops, workers
from . import descriptors

# Names that a shell adds to a session's variables, which a program does not expect among its own.
_OF_SHELLS = ("exit", "quit", "get_ipython", "display", "In", "Out", "_ih", "_oh", "_dh", "_", "__", "___")
_OF_SHELLS += ("_i", "_ii", "_iii", "_exit_code")
# The classes of the ``exit`` and ``quit`` that shells have: the mini shell's, and those of IPython.
_EXITS_OF_SHELLS = ("Exit", "ZMQExitAutocall", "ExitAutocall")
# How often a wait for a thread is interrupted to let an interrupt through, in seconds.
LOOK = 0.05
# The exit status for an interrupt: 128 + SIGINT.
INTERRUPTED = 130

_TOP_LEVEL_AWAIT = 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


async def run(host, cell, request, numbers):
    """Run ``request`` in the session ``host`` with the descriptors ``numbers``; returns the content of its
    execute_reply, with the ``exit_status`` of a script or expression."""
    about, code = request["program"], request["code"]
    one = Program(host, cell, about, numbers)
    status = 0
    reply = {"status": "ok", "execution_count": None, "user_expressions": {}, "payload": []}
    try:
        if about["mode"] == "script":
            status = reply["exit_status"] = one.script(code, about["name"], about["arguments"])
        elif about["mode"] == "expression":
            status = reply["exit_status"] = await one.expression(code)
        else:
            with warnings.catch_warnings(), loops.none_runs() if _is_plain(code) else _nothing():
                warnings.filterwarnings("ignore", message="To exit: use")
                reply = await host.shell.run_cell(code, store_history=False, raw=request.get("raw"))
    finally:
        ended = one.end()
    if ended and not status:
        reply["exit_status"] = ended
    return reply


class Exit:
    """Python's own ``exit`` and ``quit``, without closing stdin."""

    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return "Use %s() or Ctrl-D (i.e. EOF) to exit" % self._name

    def __call__(self, code=None):
        raise SystemExit(code)


class Program:
    """One running program, from when this object is made until ``end``."""

    def __init__(self, host, cell, about, numbers):
        self._host = host
        self._ends = about["ends"]
        self._owns = host.place.owns_process
        self._before = dict(host.redirects)
        self._saved = {}  # descriptor -> a copy of what it was before
        self._threads = cell.threads = weakref.WeakSet()
        self._thread = threading.current_thread()
        self._was_daemon = self._thread.daemon
        self._thread._daemonic = False  # so that threads that it starts are not daemons, as on a main thread
        if self._owns:
            numbers = self._take(numbers)
        out, err = _writer(numbers[0], "stdout", not self._owns), _writer(numbers[1], "stderr", not self._owns)
        self._streams = [out, err]
        mine = {"stdout": out, "stderr": err}
        if len(numbers) > 2:
            mine["stdin"] = _reader(numbers[2], not self._owns)
            self._streams.append(mine["stdin"])
        self._layers = []
        if self._owns and self._ends:
            self._layers = [patches.Layer(own.shared(threading), name, make) for name, make in _OWN_THREADS.items()]
        self._workers = None
        self._exits = {}  # what was ``exit`` and ``quit`` of the session
        if about["mode"] != "script":
            self._take_exits()
        if about["mode"] != "cell":
            mine.update(displayhook=sys.__displayhook__, excepthook=_excepthook)
        host.redirects.update(mine)

    def __repr__(self):
        return "<Program of %r>" % (self._host,)

    def _take(self, numbers):
        """Make them descriptors 1, 2 and 0."""
        for number, given in zip((1, 2, 0), numbers):
            self._saved[number] = descriptors.high_number(os.dup(number))
            os.dup2(given, number)
            os.close(given)
        return (1, 2, 0)[: len(numbers)]

    def _take_exits(self):
        """``exit`` and ``quit`` end a program, as in Python; a shell's own end a session."""
        space = self._host.namespace.__dict__
        for name in ("exit", "quit"):
            if type(space.get(name)).__name__ in _EXITS_OF_SHELLS:
                self._exits[name], space[name] = space[name], Exit(name)

    # -- running

    def script(self, source, name, arguments):
        """Run the text of a script; returns its exit status."""
        space = self._host.namespace.__dict__
        hidden = {one: space.pop(one) for one in _OF_SHELLS if one in space}
        before = sys.argv, space.get("__name__")
        sys.argv = [name] + arguments
        file = "<stdin>" if name == "-" else name
        space.update(__name__="__main__", __doc__=None, __file__=file, __loader__=_Loader(file, source))
        if sys.version_info < (3, 15):
            space["__cached__"] = None
        if sys.version_info < (3, 14):
            space.setdefault("__annotations__", {})
        _remember(file, source)
        numbers = () if self._owns else [stream.fileno() for stream in self._streams[:2]]
        self._workers = workers.Workers(self._host, file, source, numbers)
        try:
            with loops.none_runs():
                return _status(lambda: exec(compile(source, file, "exec", dont_inherit=True), space))
        finally:
            sys.argv, space["__name__"] = before
            for one in hidden:
                space.setdefault(one, hidden[one])

    async def expression(self, source):
        """Print the value of an expression; returns the exit status."""
        name, space = "<eval>", self._host.namespace.__dict__
        _remember(name, source)
        found = []
        with loops.none_runs():
            status = _status(lambda: found.append(eval(_compiled(source, name), space)))
        if found and inspect.iscoroutine(found[0]) and found[0].cr_code.co_filename == name:
            try:
                found[0] = await found[0]
            except BaseException as e:  # the user's code may raise anything
                return _failed(e)
        return status or _status(lambda: print(repr(found[0])))

    # -- ending

    def end(self):
        """Wait for threads that outlive its last line, and restore what was changed. Returns a status other than 0 if
        that was interrupted."""
        status = 0
        try:
            if self._ends:
                self._wait()
        except KeyboardInterrupt:
            status = INTERRUPTED
        current = [self._host.redirects.get(name) for name in ("stdout", "stderr")]
        for stream in current + self._streams:
            try:
                stream.flush()
            except Exception:  # it is closed, or has no reader, or is the user's own
                pass
        self._thread._daemonic = self._was_daemon
        for layer in self._layers:
            layer.remove()
        if self._workers is not None:
            self._workers.close()
        for name, one in self._exits.items():
            if type(self._host.namespace.__dict__.get(name)) is Exit:
                self._host.namespace.__dict__[name] = one
        self._host.redirects.clear()
        self._host.redirects.update(self._before)
        for number, copy in self._saved.items():
            os.dup2(copy, number)
            os.close(copy)
        if not self._owns and len(self._streams) > 2:
            self._streams[2].close()  # so that whoever writes to it gets an error
        del self._streams[:]
        return status

    def _wait(self):
        if self._owns:
            for function in reversed(getattr(threading, "_threading_atexits", ())):
                _quietly(function)
        pools = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", {})
        while True:
            waited = [one for one in self._threads if one.is_alive() and not one.daemon and one not in pools]
            if not waited:
                break
            waited[0].join(LOOK)
        if self._owns:
            _quietly(atexit._run_exitfuncs)
            self._free()

    def _free(self):
        """Free what the program's names hold, as an interpreter does when it ends: ``__del__`` methods run, suspended
        generators are closed. Modules, functions and classes are freed last, because that code may use them."""
        names = self._host.namespace.__dict__
        mine = [name for name in names if name not in _OF_SHELLS and name[:2] != "__"]
        found = [name for name in mine if _ends_with_code(names[name])]
        late = mine[::-1]  # what is made last goes first, and finds what was there when it was made
        found += [name for name in late if not isinstance(names[name], _USED)] + late
        for name in found:
            _quietly(functools.partial(names.pop, name, None))
        _quietly(gc.collect)


def _enumerate(below):
    def enumerate():
        return [thread for thread in below() if not thread.name.startswith("flame-")]

    return enumerate


def _active_count(below):
    return lambda: len(own.shared(threading).enumerate())


# Functions of ``threading`` that leave out our threads, for a script that has a process to itself: some scripts wait
# until no other thread is left.
_OWN_THREADS = {"enumerate": _enumerate, "active_count": _active_count}
# Values of these classes are freed last.
_USED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)


def _ends_with_code(one):
    """Whether code of the user's runs when it is freed."""
    return hasattr(type(one), "__del__") or isinstance(one, types.GeneratorType)


def _is_plain(code):
    """Whether a cell's text is Python that does not await, so that it runs in one step."""
    try:
        return bool(compile(code, "<cell>", "exec", 0, True))
    except Exception:  # whatever is wrong with it, its shell says
        return False


@contextlib.contextmanager
def _nothing():
    yield


def _quietly(function):
    """Call a function; an exception has been printed already, or there is nobody to tell."""
    try:
        function()
    except KeyboardInterrupt:
        raise
    except BaseException:  # exit functions are the user's, and may raise anything, SystemExit too
        pass


def _status(function):
    """Call ``function``; returns the exit status of a process that does so."""
    try:
        function()
        return 0
    except BaseException as e:  # the user's code may raise anything
        return _failed(e)


def _failed(error):
    """Show ``error`` as Python does; returns the exit status of a process that ends with it."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 255
        _quietly(lambda: print(error.code, file=sys.stderr))
        return 1
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    error = error.with_traceback(tb)
    try:
        sys.excepthook(type(error), error, tb)
    except BaseException:  # the user's own hook, or their stderr
        _quietly(lambda: _excepthook(type(error), error, tb))
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _excepthook(kind, error, tb):
    """Shows an error, without frames of ours. Python's own hook would read source lines from the disk, which has no
    script of the client."""
    found = traceback.TracebackException(kind, error, tb)
    _leave_out(found, set())
    if isinstance(error, SyntaxError) and error.text is None and isinstance(error.lineno, int):
        # Some of the compiler's errors have no text: Python's own hook reads that from the disk.
        found.text = linecache.getline(str(error.filename), error.lineno) or None
    print("".join(found.format()), end="", file=sys.stderr)


def _leave_out(found, seen):
    """Remove the frames of the agent from a traceback and those that belong to it."""
    if found is None or id(found) in seen:
        return
    seen.add(id(found))
    found.stack[:] = [frame for frame in found.stack if not own.is_file(frame.filename)]
    for one in [found.__cause__, found.__context__] + list(getattr(found, "exceptions", None) or ()):
        _leave_out(one, seen)


def _compiled(source, name):
    """The code of an expression, which may span several lines and may await."""
    flags = _TOP_LEVEL_AWAIT if sys.version_info >= (3, 8) else 0
    try:
        return compile(source, name, "eval", flags, True)
    except SyntaxError as e:
        failed = e
    try:
        return compile("(" + source + "\n)", name, "eval", flags, True)
    except SyntaxError:
        pass  # the error of the unchanged text tells the user more
    raise failed


class _Loader(importlib.machinery.SourceFileLoader):
    """What a script finds as its ``__loader__``: Python's own, but the source is in memory."""

    def __init__(self, name, source):
        super().__init__("__main__", name)
        self._source = source

    def get_data(self, path):
        return self._source.encode("utf-8", "surrogatepass") if path == self.path else super().get_data(path)


def _remember(name, source):
    linecache.cache[name] = (len(source), None, sources.lines_of(source), name)
    try:
        linecache.cache[os.path.abspath(name)] = linecache.cache[name]  # the name by which pdb looks
    except OSError:  # the current folder was deleted
        pass


def _writer(number, name, closes):
    raw = io.FileIO(number, "wb", closefd=closes)
    raw.name = "<%s>" % name
    errors = "surrogateescape" if name == "stdout" else "backslashreplace"
    stream = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors, "\n", line_buffering=True)
    stream.mode = "w"
    return stream


def _reader(number, closes):
    raw = io.FileIO(number, "rb", closefd=closes)
    raw.name = "<stdin>"
    stream = io.TextIOWrapper(io.BufferedReader(raw), "utf-8", "surrogateescape", "\n")
    stream.mode = "r"
    return stream
