"""Scratch: where the agent's own temporary folders of this process lie.

A process that is killed, or ends while a thread of it still writes there, leaves them behind. So those of a child lie
in one folder that the server has chosen, and removes when the child has ended.
"""

import atexit
import os
import shutil
import tempfile

_root = []  # the path of that folder, in a child


def choose():
    """The path of a folder that is not there yet, for a child that is about to be started."""
    return os.path.join(tempfile.gettempdir(), "flame_child_" + os.urandom(8).hex())


def remove(path):
    """Remove what a child that has ended may have left in its folder."""
    shutil.rmtree(path, ignore_errors=True)


def use(path):
    """All folders of this process lie in that one from now on; where the server has gone, nobody else removes it."""
    _root[:] = [path]
    pid = os.getpid()  # a copy that a cell forks has the same exit handlers, and no say in this
    atexit.register(lambda: remove(path) if os.getpid() == pid else None)


def name(prefix):
    """A path for a folder that nobody else has; ``make`` makes it."""
    return os.path.join(_root[0] if _root else tempfile.gettempdir(), prefix + os.urandom(8).hex())


def make(path):
    """Make the folder of that name, and in a child the one around it."""
    if _root:
        try:
            os.mkdir(_root[0], 0o700)
        except FileExistsError:
            pass
    os.mkdir(path, 0o700)
