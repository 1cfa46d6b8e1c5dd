"""Where this process keeps the agent's temporary folders.

A process that is killed leaves its folders behind, and so may one that ends while a thread still writes there.  So a
child's folders all lie in one folder, whose name the server chooses; the server removes it when the child has ended.
"""

import atexit
import os
import shutil
import tempfile

# How many times we try to remove a folder in which a thread still creates files.
TRIES = 20

_root = []  # in a child: the path of that folder and the child's pid


def choose():
    """The path of a new folder, not made yet, for a child that is about to start."""
    return os.path.join(tempfile.gettempdir(), "flame_child_" + os.urandom(8).hex())


def remove(path):
    """Remove the folder of a child that has ended or is ending, if it exists."""
    for _ in range(TRIES):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return


def use(path):
    """Put all folders of this process into ``path``; also remove it at exit, as the server may be gone by then."""
    _root[:] = [path, os.getpid()]
    atexit.register(remove_own)


def remove_own():
    """Remove that folder at the end of this process, but not at the end of a fork of it."""
    if _root and os.getpid() == _root[1]:
        remove(_root[0])


def name(prefix):
    """A path for a folder that nobody else has; ``make`` creates it."""
    return os.path.join(_root[0] if _root else tempfile.gettempdir(), prefix + os.urandom(8).hex())


def make(path):
    """Create the folder ``path``, and in a child the folder around it."""
    if _root:
        try:
            os.mkdir(_root[0], 0o700)
        except FileExistsError:
            pass
    os.mkdir(path, 0o700)
