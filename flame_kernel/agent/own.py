"""What belongs to the agent: its package name, how to recognize its frames and files, and its own references to the
standard library, which keep working when the user's code replaces a function there."""

import builtins
import operator
import sys
import threading
import types

try:
    import contextvars
except ImportError:  # Python 3.6
    contextvars = None

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
inspect io itertools json json.decoder json.encoder marshal math mmap numbers operator os posixpath queue re select
selectors shutil signal socket stat struct subprocess tempfile threading time traceback types uuid weakref
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
    for name, kinds in _REMADE.items():
        if isinstance(sys.modules.get(name), types.ModuleType):
            _remake(copies[id(sys.modules[name])], kinds)
    if id(sys.modules.get("json")) in copies:
        _keep_json(copies[id(sys.modules["json"])], ours)


# Classes whose methods take what they need from their module each time they run: gevent puts other locks there, and
# starts greenlets in place of threads. Cells replace methods of the classes of ``json``.
_REMADE = {
    "threading": ("Condition", "Event", "Semaphore", "Thread", "Timer"),
    "queue": ("Queue",),
    "json.encoder": ("JSONEncoder",),
    "json.decoder": ("JSONDecoder",),
}


def _keep_json(copy, ours):
    """Let the functions of our ``json``, and the encoders and decoders that our modules have made, use its private
    classes."""
    names, shared_names = vars(copy), vars(sys.modules["json"])
    private = {}  # class -> ours
    for part, name in (("encoder", "JSONEncoder"), ("decoder", "JSONDecoder")):
        kind = getattr(names.get(part), name, None)
        if isinstance(kind, type) and name in names:  # else an app has put something of its own there
            private[names[name]] = names[name] = kind
    for module in map(vars, ours):
        for name, value in list(module.items()):
            kind = private.get(type(value))
            if kind is not None:
                module[name] = made = kind.__new__(kind)
                vars(made).update(vars(value))
    for name, value in list(names.items()):
        if isinstance(value, types.FunctionType):
            names[name] = _with_names(value, names, shared_names)


def _remake(copy, kinds):
    """Give a private copy of a module subclasses of its classes ``kinds``, whose methods use what is in the copy."""
    names, shared_names = vars(copy), vars(sys.modules[copy.__name__])
    for name in kinds:
        found = _original(names, name, copy.__name__)
        if found is None:
            continue
        about = {"__module__": found.__module__, "__qualname__": name, "__doc__": found.__doc__}
        for kind in reversed(found.__mro__[:-1]):  # Timer is a Thread: all that its methods call is ours
            for key, value in vars(kind).items():
                if isinstance(value, types.FunctionType):
                    about[key] = _with_names(value, names, shared_names)
                elif isinstance(value, property):
                    accessors = (value.fget, value.fset, value.fdel)
                    about[key] = property(*[one and _with_names(one, names, shared_names) for one in accessors])
        names[name] = type(name, (found,), about)


def _original(names, name, module):
    """The module's own class, also where an app has put a class of its own there, which may want other arguments; None
    if it is found nowhere."""
    for kind in (names.get(name), names.get("_MainThread")):
        for base in getattr(kind, "__mro__", ()):
            if (base.__module__, base.__qualname__) == (module, name):
                return base
    return None


def _with_names(function, names, shared_names):
    """The same function over other globals; itself, if it is no plain function of that module."""
    if function.__globals__ is not shared_names or function.__closure__:
        return function
    made = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    made.__kwdefaults__, made.__doc__ = function.__kwdefaults__, function.__doc__
    return made


def shared(module):
    """The module that the whole process uses under the name of ``module``, which may be our private copy."""
    return sys.modules.get(module.__name__, module)


def _in_use(module, **probes):
    """``(module, name, its value, a function that tells whether a replacement works as well)``."""
    return [(module, name, vars(module)[name], works) for name, works in probes.items() if name in vars(module)]


# What the standard library and IPython use all the time: without it no cell begins or ends.
_NEEDED = _in_use(
    builtins,
    len=lambda f: f((1, 2)) == 2,
    isinstance=lambda f: f(1, int) is True,
    issubclass=lambda f: f(bool, int) is True,
    hasattr=lambda f: f(1, "real") is True,
    getattr=lambda f: f(1, "real") == 1,
    setattr=lambda f: f(types.SimpleNamespace(), "x", 1) is None,
    callable=lambda f: f(print) is True,
    iter=lambda f: list(f((1,))) == [1],
    next=lambda f: f(iter((1,))) == 1,
    repr=lambda f: f(1) == "1",
    min=lambda f: f(2, 1) == 1,
    max=lambda f: f(2, 1) == 2,
    sum=lambda f: f((1, 2)) == 3,
    any=lambda f: f((0, 1)) is True,
    all=lambda f: f((0, 1)) is False,
    zip=lambda f: list(f((1,), (2,))) == [(1, 2)],
    map=lambda f: list(f(str, (1,))) == ["1"],
    id=lambda f: f(None) == id(None),
    vars=lambda f: isinstance(f(sys), dict),
    enumerate=lambda f: list(f((1,))) == [(0, 1)],
    reversed=lambda f: list(f((1, 2))) == [2, 1],
    range=lambda f: list(f(2)) == [0, 1],
    sorted=lambda f: f((2, 1)) == [1, 2],
    type=lambda f: f(1) is int,
    super=lambda f: isinstance(f(int, 1), super),
    str=lambda f: f(1) == "1",
    int=lambda f: f("1") == 1,
    list=lambda f: f((1,)) == [1],
    dict=lambda f: f(a=1) == {"a": 1},
    tuple=lambda f: f([1]) == (1,),
    set=lambda f: f((1,)) == {1},
    bool=lambda f: f(1) is True,
    compile=lambda f: f("1", "<probe>", "eval") is not None,
    __import__=lambda f: f("sys") is sys,
    __build_class__=lambda f: isinstance(f(lambda: None, "Probe"), type),
)
_NEEDED += _in_use(
    threading,
    get_ident=lambda f: isinstance(f(), int),
    current_thread=lambda f: f() is not None,
)
_CONTEXTS = [] if contextvars is None else _in_use(contextvars, copy_context=lambda f: f().run(len, ()) == 0)


_all, _is, _map = all, operator.is_, map  # ours: the cell may have broken these, too
# For each module: its variables, a getter of the needed ones, and their values. _CONTEXTS has a single name and stands
# twice, because an itemgetter of one name returns no tuple.
_AT_ONCE = [
    (vars(module), operator.itemgetter(*names), [vars(module)[name] for name in names])
    for module, names in (
        (module, [name for one, name, _, _ in _NEEDED + _CONTEXTS + _CONTEXTS if one is module])
        for module in (builtins, threading, contextvars)
    )
    if names
]


def _are_there():
    """Whether nothing that is needed has been replaced."""
    try:
        for names, get, kept in _AT_ONCE:
            if not _all(_map(_is, get(names), kept)):
                return False
    except KeyError:
        return False
    return True


def repair():
    """Put back essential functions that a cell has replaced by something that does not work; returns their names. The
    user may replace them by something that works."""
    found = []
    if _are_there():
        return found
    for module, name, kept, works in _NEEDED + _CONTEXTS:
        now = vars(module).get(name)
        if now is kept:
            continue
        try:
            good = works(now)
        except BaseException:  # what a cell has put there may raise anything
            good = False
        if not good:
            setattr(module, name, kept)
            found.append("%s.%s" % (module.__name__, name))
    return found
