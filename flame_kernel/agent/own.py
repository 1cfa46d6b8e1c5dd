"""What belongs to the agent: its package name, how to recognize its frames and files, and its own references to the
standard library, which keep working when the user's code replaces a function there."""

import sys
import types

# ``flame_agent_`` and the hash of the agent's text: each version has a package name of its own.
PREFIX = "flame_agent_"
PACKAGE = __name__.rpartition(".")[0]


def has(frame):
    """Whether a frame runs code of any version of the agent."""
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(PREFIX)


def is_file(path):
    """Whether a frame's file name is that of an agent module, as the loader makes them."""
    return path.startswith("<" + PREFIX)


# Standard library modules from which the agent uses only functions and classes. Left out are modules whose variables we
# must see as they are now (sys, warnings, linecache), and modules whose patches should affect us (asyncio, atexit,
# getpass).
_KEPT = """
_thread array ast base64 binascii bisect codecs collections contextlib ctypes errno fcntl functools hashlib heapq hmac
inspect io itertools json marshal math mmap numbers operator os posixpath queue re select selectors shutil signal socket
stat struct subprocess tempfile threading time traceback types uuid weakref
"""


def keep_references():
    """Give every agent module private copies of the modules that it has imported, so that a cell that mocks
    ``json.dumps`` or ``time.time`` breaks only itself and not the session. Called once, when the whole agent is
    loaded."""
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
    """The module that the whole process uses under the name of ``module``, which may be our private copy."""
    return sys.modules.get(module.__name__, module)
