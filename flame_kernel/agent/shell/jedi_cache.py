"""Where jedi caches what it has parsed: normally a folder in the user's home, shared by all of the user's programs.

If the user has no such folder, jedi gets one of ours while there are sessions.  It also gets one if a file in the
user's folder is broken, because a process was killed while it wrote the file: jedi can neither read nor replace such a
file, so every completion that needs it would be empty.  We do not change the user's folder.
"""

import atexit
import os
import shutil
import sys
import threading

from .. import tempdirs
from ..patches import MISSING, Layer

_calls = threading.local()  # .failed: whether reading the cache failed in the completion that runs on this thread
_lock = threading.Lock()
_shells = set()  # ids of the shells that use jedi
_cache = None


def use(shell):
    """Count one more shell that uses jedi."""
    with _lock:
        _shells.add(id(shell))


def leave(shell):
    """Count one shell less; after the last one jedi is as it was found. Idempotent."""
    global _cache
    with _lock:
        _shells.discard(id(shell))
        if not _shells and _cache is not None:
            _cache.give_back()
            _cache = None


def complete(shell, ask):
    """The result of ``ask()``, a completion with jedi on this thread; repeated with our folder if a file was broken."""
    if not _prepare(shell):
        return ask()
    _calls.failed = False
    found = ask()
    if _calls.failed and _prepare(shell, move=True):
        found = ask()
    return found


def _prepare(shell, move=False):
    """Whether jedi is installed and has a cache folder; with ``move`` it gets one of ours."""
    global _cache
    settings, storage = sys.modules.get("jedi.settings"), sys.modules.get("parso.cache")
    with _lock:
        if settings is None or storage is None or id(shell) not in _shells:
            return False
        if _cache is None:
            _cache = _Cache(settings, storage)
        if move or not os.path.isdir(str(settings.cache_directory)):
            _cache.move()
        return True


class _Cache:
    """What this version of the agent has changed in this process's jedi."""

    def __init__(self, settings, storage):
        self._settings = settings
        self._found = settings.cache_directory
        self._folder = None  # our own folder, if jedi needs one
        self._pid = os.getpid()
        self._layer = Layer(storage, "_load_from_file_system", _watched)

    def __repr__(self):
        return "<_Cache %s>" % (self._folder or self._found)

    def move(self):
        """Have jedi use a folder of ours, unless it already does or none can be made."""
        if self._folder is not None:
            return
        folder = tempdirs.name("flame_jedi_")
        try:
            tempdirs.make(folder)
        except OSError:
            return
        self._folder = folder
        self._settings.cache_directory = type(self._found)(folder)
        atexit.register(self._remove_folder)

    def give_back(self):
        self._layer.remove()
        if self._folder is not None:
            if str(self._settings.cache_directory) == self._folder:
                self._settings.cache_directory = self._found
            atexit.unregister(self._remove_folder)
            self._remove_folder()

    def _remove_folder(self):
        if os.getpid() == self._pid:  # a process forked by a cell has the same exit handlers, but must not act
            shutil.rmtree(self._folder, ignore_errors=True)


def _watched(found):
    """parso's function that reads a cache file, which also records on this thread that reading failed."""

    def load(*args, **kwargs):
        try:
            # If parso no longer has such a function, nobody calls this one.
            return None if found is MISSING else found(*args, **kwargs)
        except Exception:  # whatever half a pickle raises; and a folder that cannot be read is as useless
            _calls.failed = True
            raise

    return load
