"""Where the agent's own temporary folders of this process lie.

A process that is killed, or ends while a thread of it still writes there, leaves them behind. So those of a child lie
in one folder that the server has chosen, and removes when the child has ended.
"""

import atexit
import os
import shutil
import tempfile

# How often a folder is removed in which a thread still makes files.
TRIES = 20

_root = []  # in a child, the path of that folder, and the child's pid


def choose():
    """The path of a folder that is not there yet, for a child that is about to be started."""
    return os.path.join(tempfile.gettempdir(), "flame_child_" + os.urandom(8).hex())


def remove(path):
    """Remove what a child that has ended, or is just about to, may have left in its folder."""
    for _ in range(TRIES):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return


def use(path):
    """All folders of this process lie in that one from now on; where the server has gone, nobody else removes it."""
    _root[:] = [path, os.getpid()]
    atexit.register(remove_own)


def remove_own():
    """Remove it, at the end of this process; a copy that a cell forks has the same exit handlers, and no say in it."""
    if _root and os.getpid() == _root[1]:
        remove(_root[0])


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
