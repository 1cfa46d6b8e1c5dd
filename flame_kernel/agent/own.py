"""The agent's own: the name of its package, how its frames and files are told from everything else in a process, and
its references to the standard library, which hold when code of the user's replaces a function there."""

import sys
import types

# ``flame_agent_`` and the hash of the agent's text: each version that was pushed has a name of its own.
PREFIX = "flame_agent_"
PACKAGE = __name__.rpartition(".")[0]


def has(frame):
    """Whether a frame runs code of the agent, of this version or another."""
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(PREFIX)


def is_file(path):
    """Whether a frame's file name is that of an agent's module, as the loader makes them."""
    return path.startswith("<" + PREFIX)


# Modules of the standard library of which the agent uses functions and classes alone. Not those whose variables are
# to be seen as they are now (sys, warnings, linecache), nor what others patch for us too (asyncio, atexit, getpass).
_KEPT = """
_thread array ast base64 binascii bisect codecs collections contextlib ctypes errno fcntl functools hashlib heapq hmac
inspect io itertools json marshal math mmap numbers operator os posixpath queue re select shutil signal socket stat
struct subprocess tempfile threading time traceback types uuid weakref
"""


def keep_references():
    """Give every module of the agent copies, of its own, of the modules that it has imported: who mocks ``json.dumps``
    or ``time.time`` in a cell breaks the cell and not the session. Called once, when all of it is loaded."""
    copies, ours = {}, []
    for name in _KEPT.split():
        module = sys.modules.get(name)
        if isinstance(module, types.ModuleType):
            copies[id(module)] = copy = types.ModuleType(name)
            copy.__dict__.update(vars(module))
            ours.append(copy)
    ours += [module for name, module in list(sys.modules.items()) if (name + ".").startswith(PACKAGE + ".")]
    for names in map(vars, ours):
        for key, value in list(names.items()):
            if id(value) in copies:
                names[key] = copies[id(value)]


def shared(module):
    """The module that the whole process knows by the name of ``module``, which may be our copy."""
    return sys.modules.get(module.__name__, module)
