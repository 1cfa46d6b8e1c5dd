"""Places: where a session's cells run, one class for each. All differences between the places are in these classes.
For ``auto``, ``chosen`` takes one of them.

process  a thread in the server's process: the app's own code runs at the same time, undisturbed
child    a separate process started by the server, all for the session
main     the main thread of the server's process
"""

import os
import sys

from .. import threads
from ..shell.main_tests import MainTests
from . import core, lane, main_thread
from .by_value import ByValue
from .child import core as child


class Place:
    """What the places share; these defaults are for a session in the server's own process.

    name               the word for it that users type, also used on the wire
    owns_process       whether the process belongs to the session alone: then cells may change its folder, environment,
                       ``sys.path`` and ``sys.last_value``, and code outside of any cell finds the session's shell
    stops_all_threads  whether a breakpoint stops all threads of the process, or only those of cells
    own_group          whether a cell's command needs its own process group so that a Stop reaches all of it
    """

    name = ""
    owns_process = False
    stops_all_threads = False
    own_group = True

    def __init__(self, session_id):
        self.session_id = session_id

    def __repr__(self):
        return "<place %s>" % self.name

    # -- in the server -----------------------------------------------------------------------------------------------

    def make_core(self, log, shell, bundle):
        """The object that runs the cells, not started yet; it writes its events to ``log``."""
        raise NotImplementedError

    def keep(self, log):
        """Start keeping the journal of ``log``, on a thread of its own."""
        threads.start("journal", log.keep_for_ever)

    def attached(self, running):
        """A client has taken up the session whose core is ``running``. Raises RuntimeError if that is impossible."""

    def detached(self, running):
        """The client has left."""

    # -- where cells run ---------------------------------------------------------------------------------------------

    @property
    def namespace_name(self):
        """The name of the module that holds the cells' variables; ``__main__`` is the app's."""
        return "flame_session_" + "".join(c if c.isalnum() else "_" for c in self.session_id)

    def next_lane(self, running, ended):
        """The lane that replaces one that has ended; None: one is made when needed."""
        return None

    def flush(self, running, cell):
        """A cell has flushed its output."""

    def descriptor(self, running, name):
        """A descriptor whose text appears in the session: a pipe of its own, since 1 and 2 are the app's."""
        return running.need_capture().pipe(name)

    def before_fork(self, running):
        """A cell is about to fork this process: make the pipes now, or the fork's output could not get out."""
        for name in ("stdout", "stderr"):
            self.descriptor(running, name)

    def descriptor_in_fork(self, running, name):
        """The descriptor to which a forked copy of this process writes its text."""
        known = running.capture.has(name) if running.capture is not None else None
        return known or _STANDARD[name]

    def remember_namespace(self, namespace):
        """The session begins: put its module into ``sys.modules``, and have pickles for workers hold its contents."""
        sys.modules[namespace.__name__] = namespace
        self._by_value = ByValue(namespace)
        self._main_tests = MainTests()

    def forget_namespace(self, namespace):
        """The session has ended: remove its module from ``sys.modules``."""
        self._by_value.close()
        self._main_tests.close()
        if sys.modules.get(namespace.__name__) is namespace:
            del sys.modules[namespace.__name__]


class Process(Place):
    """Cells run on a thread of their own in the server's process.

    A Stop raises KeyboardInterrupt in that thread; if a C call does not return, the thread is abandoned with it.
    """

    name = "process"

    def make_core(self, log, shell, bundle):
        return core.Core(self.session_id, self, log, shell, child.pids)


class Main(Place):
    """Cells run on the main thread of the server's process; meanwhile another thread serves clients.

    A Stop is a SIGINT whose handler raises KeyboardInterrupt.  Raises RuntimeError if that thread cannot be used.
    """

    name = "main"

    def __init__(self, session_id):
        Place.__init__(self, session_id)
        self._thread = main_thread.MainThread(session_id)

    def make_core(self, log, shell, bundle):
        return main_thread.MainCore(self.session_id, self, self._thread, log, shell, child.pids)

    def attached(self, running):
        running.take_thread()

    def detached(self, running):
        running.release_thread()


class Child(Place):
    """Cells run on the main thread of a child process, which belongs to the session alone.

    A Stop is a SIGINT to the process group, so commands need no group of their own; the last Stops end the process.
    On Windows the child is asked to interrupt its cell.
    Output of C code goes to descriptors 1 and 2, which are pipes of the session.
    """

    name = "child"
    owns_process = True
    stops_all_threads = True
    own_group = not child.processes.POSIX
    # For the first flushes of a cell we wait until the server has the text, because the cell may be about to crash.
    FIRST_FLUSHES = 8

    @staticmethod
    def refusal():
        """Why this server cannot have a child, in a clause; empty if it can."""
        return child.refusal()

    def make_core(self, log, shell, bundle):
        return child.ChildCore(self.session_id, self, log, shell, bundle)

    def keep(self, log):
        pass  # the thread that receives the child's events does it

    @property
    def namespace_name(self):
        return "__main__"

    def next_lane(self, running, ended):
        return None if ended.name else lane.Lane(running, "", on_main=True)

    def flush(self, running, cell):
        if os.getpid() == running.pid:
            cell.flushes += 1
            running.hand_over(cell.flushes <= self.FIRST_FLUSHES)

    def descriptor(self, running, name):
        return _STANDARD[name]

    def before_fork(self, running):
        pass  # the fork has descriptors 1 and 2 too

    def descriptor_in_fork(self, running, name):
        return _STANDARD[name]

    def remember_namespace(self, namespace):
        sys.modules[namespace.__name__] = namespace  # pickles take along what ``__main__`` holds anyway
        if "__mp_main__" in sys.modules:  # the name of ``__main__`` in workers of multiprocessing
            sys.modules["__mp_main__"] = namespace

    def forget_namespace(self, namespace):
        pass  # it is ``__main__``, which the user's exit handlers may still need


_STANDARD = {"stdout": 1, "stderr": 2}

# name -> class
PLACES = {place.name: place for place in (Process, Child, Main)}


def chosen(word, bare):
    """The name of the place that a client asks for by ``word``. For ``auto`` it is a child, if this process is a Flame
    server and nothing else (``bare``) and can have one; otherwise a thread of this process, beside the app."""
    if word != "auto":
        return word
    return Child.name if bare and not Child.refusal() else Process.name
