"""Places: where a session's cells run, a class for each. What differs between them is said here and nowhere else.

process  a thread of the server's process: the app's own code runs beside the cells, and is not disturbed
child    a process of its own, below the server: all of it is the session's
main     the main thread of the server's process
"""

import os
import sys

from .. import threads
from . import child, core, lane, main_thread


class Place:
    """What the places have in common: that of a session in the server's own process.

    name               the user's word for it, and the word on the wire
    owns_process       whether the process is the session's alone: then cells may change its folder, its environment,
                       ``sys.path`` and ``sys.last_value``, and code that belongs to no cell finds the session's shell
    stops_all_threads  whether a breakpoint stops every thread of the process, or those of cells alone
    own_group          whether a command of a cell needs a process group of its own so that a Stop reaches all of it
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
        """What runs the cells, not started yet; it writes its events to ``log``."""
        raise NotImplementedError

    def keep(self, log):
        """Begin to keep the journal of ``log``: on a thread of its own."""
        threads.start("journal", log.keep_for_ever)

    def attached(self, running):
        """A client has taken up the session whose core is ``running``. Raises RuntimeError where it cannot go on."""

    def detached(self, running):
        """Its client has left."""

    # -- where cells run ---------------------------------------------------------------------------------------------

    @property
    def namespace_name(self):
        """The name of the module that holds the names of cells: ``__main__`` is the app's."""
        return "flame_session_" + "".join(c if c.isalnum() else "_" for c in self.session_id)

    def next_lane(self, running, ended):
        """The lane to have in the place of one that has ended; None: one is made when it is needed."""
        return None

    def flush(self, running, cell):
        """A cell has flushed its output."""

    def descriptor(self, running, name):
        """The number of a descriptor whose text appears in the session: a pipe of its own; 1 and 2 are the app's."""
        return running.need_capture().pipe(name)

    def before_fork(self, running):
        """A cell is about to fork this process: pipes must be there, or the copy's output has no way out."""
        for name in ("stdout", "stderr"):
            self.descriptor(running, name)

    def descriptor_in_fork(self, running, name):
        """Where a forked copy of this process writes its text."""
        known = running.capture.has(name) if running.capture is not None else None
        return known or _STANDARD[name]

    def forget_namespace(self, namespace):
        """The session has ended: take its module out of ``sys.modules``."""
        if sys.modules.get(namespace.__name__) is namespace:
            del sys.modules[namespace.__name__]


class Process(Place):
    """On a thread of its own in the server's process.

    A Stop raises KeyboardInterrupt in that thread; a call in C that does not return is abandoned with its thread.
    """

    name = "process"

    def make_core(self, log, shell, bundle):
        return core.Core(self.session_id, self, log, shell, child.pids)


class Main(Place):
    """On the main thread of the server's process, which serves clients from another thread meanwhile.

    A Stop is a SIGINT whose handler raises KeyboardInterrupt.  Raises RuntimeError where that thread cannot be had.
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
    """On the main thread of a child process, which is the session's alone.

    A Stop is a SIGINT to the process group, so commands need no group of their own; the last Stops end the process.
    What C code prints goes to descriptors 1 and 2, which are pipes of the session's.
    """

    name = "child"
    owns_process = True
    stops_all_threads = True
    own_group = False
    # The first flushes of a cell are waited for until the server has the text: the cell may be about to crash.
    FIRST_FLUSHES = 8

    def make_core(self, log, shell, bundle):
        return child.ChildCore(self.session_id, self, log, shell, bundle)

    def keep(self, log):
        pass  # the thread that takes the child's events does it

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
        pass  # the copy has descriptors 1 and 2 as well

    def descriptor_in_fork(self, running, name):
        return _STANDARD[name]

    def forget_namespace(self, namespace):
        pass  # it is ``__main__``, which exit handlers of the user's may still want


_STANDARD = {"stdout": 1, "stderr": 2}

# By the user's words.
PLACES = {place.name: place for place in (Process, Child, Main)}
