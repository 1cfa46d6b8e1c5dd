"""What holds an object: what refers to it, what refers to that, and so on, up to modules, classes, running functions.

Each search (``gc.get_referrers``) visits all objects that the garbage collector knows; none of their code is run. A
dict or tuple that is only a part of something, such as an object's attributes, is left out: what it is a part of holds.
"""

import collections
import functools
import gc
import itertools
import os
import sys
import threading
import time
import types

from .. import own

# How many steps are followed; how many holders of one object are shown; how many objects and references in all.
STEPS, HOLDERS, OBJECTS, REFERENCES = 5, 6, 60, 200
# Seconds after which no further search begins.
PATIENCE = 2.0
# The most characters of a name, the most items of a container among which one is looked for, and the most frames.
SHORT, ITEMS, FRAMES = 60, 1000000, 5000
HEAP_TYPE = 1 << 9
# What a holder is.
OBJECT, CONTAINER, MODULE, CLASS, FUNCTION, FRAME = "object", "container", "module", "class", "function", "frame"
# How it holds: by an attribute, a key, an index, a module's global, a variable, a variable that an inner function uses,
# the default of an argument, or some other way.
ATTRIBUTE, KEY, INDEX, GLOBAL = "attribute", "key", "index", "global"
LOCAL, CLOSURE, DEFAULT, OTHER = "local", "closure", "default", "other"
# What is not shown of an object's holders: further ones, all of them (too far away), all of them (too slow to find).
MORE, FAR, SLOW = "more", "far", "slow"
# From what a function that is suspended is reached.
_FRAMES_OF = {
    types.GeneratorType: "gi_frame",
    types.CoroutineType: "cr_frame",
    types.AsyncGeneratorType: "ag_frame",
}
_PARTS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_CELL = type((lambda one: lambda: one)(0).__closure__[0])
_OPTIMIZED = 1  # the flag of code that keeps its variables outside of a dict


class Search:
    """One search for what holds an object."""

    def __init__(self, namespace=None):
        self._namespace = namespace  # the dict of the session's variables
        self.nodes, self.edges = [], []
        self._objects, self._depths, self._numbers = [], [], {}
        self._found = {}  # id of an object -> what refers to it; kept, so that the ids stay theirs
        self._ours = {id(self._objects)}
        self._fresh = 0  # how many holders of the present object were not shown before
        self._until = time.perf_counter() + PATIENCE
        self._frames, self._variables = _variables_of_threads()
        self._ours.add(id(self._frames))
        self._running = set(map(id, self._frames))

    def graph(self, value):
        """``{"nodes", "edges", "note"}``.

        ``nodes``: [[what it is, its name, bytes, what is not shown of its holders], …], the first one is ``value``;
        ``edges``: [[number of the holder, number of what it holds, how, name or index], …].
        """
        try:
            self._add(value)
            number = 0
            while number < len(self._objects):
                self._look(number)
                number += 1
        finally:
            for one in [self._objects, self._frames] + list(self._found.values()):
                del one[:]  # they refer to each other, and would hold what is in them until the next collection
        return {"nodes": self.nodes, "edges": self.edges, "note": _note()}

    def _look(self, number):
        """Add what holds an object."""
        one, node = self._objects[number], self.nodes[number]
        if number and (node[0] in (MODULE, CLASS) or id(one) in self._running):
            return
        if self._depths[number] == STEPS or time.perf_counter() > self._until:
            node[3] = FAR if self._depths[number] == STEPS else SLOW
            return
        self._fresh = 0
        if not self._all_shown(number, one):
            node[3] = MORE

    def _all_shown(self, number, one):
        """Note what holds an object; False if there is no room for all of it."""
        for place, name in self._variables.get(id(one), ()):
            frame = self._frames[place]
            if variables(frame).get(name) is one and not self._hold(number, frame, LOCAL, name):
                return False
        found = self._referrers(one)
        for is_first in (True, False):  # the globals of modules come first: that is where a user looks
            for holder in found:
                is_now = (
                    id(holder) not in self._ours and (type(holder) is dict and self._is_globals(holder)) is is_first
                )
                if is_now and not self._add_holder(number, holder):
                    return False
        return True

    def _referrers(self, one):
        found = self._found.get(id(one))
        if found is None:
            found = self._found[id(one)] = gc.get_referrers(one)
            # Without our own frames, which Python 3.6 lists, and which would come to hold themselves.
            found[:] = [holder for holder in found if type(holder) is not types.FrameType or not own.has(holder)]
            self._ours.add(id(found))
        return found

    def _add_holder(self, number, holder):
        """Whether there was room for it, or it is not to be shown."""
        one, kind = self._objects[number], type(holder)
        if kind is types.FrameType and type(one) is types.FrameType:
            return True
        if kind is dict and self._is_globals(holder):
            return self._hold(number, holder, GLOBAL, _key_of(holder, one))
        if kind in (dict, tuple, types.FrameType):
            for whole in self._referrers(holder):
                how = None if id(whole) in self._ours else _part(holder, whole)
                if how is not None:
                    return self._hold(number, whole, how, _name_in(holder, whole, how, one))
        how, name = reference(holder, one)
        return self._hold(number, holder, how, name)

    def _hold(self, number, holder, how, name):
        """Note that ``holder`` holds an object; False if there is no room for it."""
        at = self._numbers.get(id(holder))
        if len(self.edges) == REFERENCES or (at is None and (self._fresh == HOLDERS or len(self.nodes) == OBJECTS)):
            return False
        if at is None:
            self._fresh += 1
            at = self._add(holder, self._depths[number] + 1)
        self.edges.append([at, number, how, name[:SHORT]])
        return True

    def _is_globals(self, names):
        """Whether a dict is that of a module, or has the session's variables."""
        name = names.get("__name__")
        if type(name) is not str:
            return False
        return names is self._namespace or (name in sys.modules and attributes(sys.modules[name]) is names)

    def _add(self, one, depth=0):
        number = self._numbers[id(one)] = len(self._objects)
        self._objects.append(one)
        self._depths.append(depth)
        is_globals = type(one) is dict and self._is_globals(one)
        kind, name = (MODULE, one["__name__"][:SHORT]) if is_globals else described(one)
        self.nodes.append([kind, name, size_of(one), ""])
        return number


def _note():
    """What this Python does not tell, in words."""
    if (3, 7) <= sys.version_info < (3, 12):
        return "variables of running functions are not seen; that takes Python 3.12 there"
    return ""


# -- running functions -------------------------------------------------------------------------------------------------


def _variables_of_threads():
    """``(frames, {id of a value: [(number of the frame, name), …]})`` of all functions that run, without ours."""
    frames, found = [], {}
    for thread, frame in sorted(sys._current_frames().items()):
        while frame is not None and len(frames) < FRAMES:
            if not own.has(frame) and thread != threading.get_ident():
                for name, value in variables(frame).items():
                    found.setdefault(id(value), []).append((len(frames), name))
                frames.append(frame)
            frame = frame.f_back
    return frames, found


def variables(frame):
    """The variables of a function that runs. Before Python 3.13 ``f_locals`` would keep their values alive there."""
    if not frame.f_code.co_flags & _OPTIMIZED:
        return {}  # of a module or class: the collector knows that dict
    if sys.version_info >= (3, 13):
        return dict(frame.f_locals)
    return _variables_by_c(frame) if sys.version_info >= (3, 12) else {}


def _variables_by_c(frame):
    """The same on Python 3.12, by its C API."""
    try:
        from ctypes import py_object, pythonapi
    except ImportError:
        return {}
    get = pythonapi["PyFrame_GetVar"]
    get.restype, get.argtypes = py_object, (py_object, py_object)
    code, found = frame.f_code, {}
    for name in code.co_varnames + code.co_cellvars + code.co_freevars:
        try:
            found[name] = get(frame, name)
        except NameError:  # it has no value now
            pass
    return found


# -- parts of something ------------------------------------------------------------------------------------------------


def _part(part, whole):
    """How ``whole`` holds what is in its own dict, tuple or frame ``part``; None if that is not a part of it."""
    kind = type(whole)
    if type(part) is types.FrameType:
        return LOCAL if kind in _FRAMES_OF and getattr(whole, _FRAMES_OF[kind]) is part else None
    if type(part) is tuple:
        if kind is not types.FunctionType:
            return None
        return CLOSURE if whole.__closure__ is part else DEFAULT if whole.__defaults__ is part else None
    if kind is types.FunctionType and whole.__kwdefaults__ is part:
        return DEFAULT
    if issubclass(kind, type):
        names = gc.get_referents(type.__dict__["__dict__"].__get__(whole))
        return ATTRIBUTE if names and names[0] is part else None
    return ATTRIBUTE if attributes(whole) is part else None


def _name_in(part, whole, how, one):
    """The name under which ``one`` is in a part."""
    if type(part) is types.FrameType:
        return _key_of(variables(part), one)
    if type(part) is dict:
        return _key_of(part, one)
    place = next((number for number, value in enumerate(part) if value is one), 0)
    code = whole.__code__
    names = code.co_freevars if how == CLOSURE else code.co_varnames[code.co_argcount - len(part) : code.co_argcount]
    return names[place] if place < len(names) else ""


# -- how one object refers to another ----------------------------------------------------------------------------------


def reference(holder, one):
    """``(how, name)`` of the reference from ``holder`` to ``one``."""
    kind = type(holder)
    if issubclass(kind, dict):
        found = _label(lambda: dict.items(holder), one)
        if found is not None:
            return KEY, _key_in_words(found[0])
    for base in (list, tuple, collections.deque):
        pairs = functools.partial(_numbered, base, holder)
        found = _label(pairs, one) if issubclass(kind, base) else None
        if found is not None:
            return INDEX, str(found[0])
    if kind in _FRAMES_OF:
        frame = getattr(holder, _FRAMES_OF[kind])
        return LOCAL, "" if frame is None else _key_of(variables(frame), one)
    if kind is types.MethodType:
        return ATTRIBUTE, "__self__" if holder.__self__ is one else "__func__"
    if kind is types.FrameType:
        return LOCAL, _key_of(variables(holder), one)
    if kind is _CELL:
        return OTHER, ""
    names = attributes(holder)
    if names is one:
        return ATTRIBUTE, "__dict__"
    name = _key_of(names, one) or _slot(holder, one)
    return (ATTRIBUTE, name) if name else (OTHER, "")


def _numbered(base, holder):
    return enumerate(base.__iter__(holder))


def _key_in_words(key):
    """A key if it is short and simple; else nothing."""
    if type(key) not in (str, bytes, int, float, bool) or (type(key) in (str, bytes) and len(key) > SHORT):
        return ""
    return repr(key)


def _key_of(names, one):
    """The name that has the value ``one``; empty if there is none."""
    found = _label(names.items, one)
    return found[0] if found is not None and type(found[0]) is str else ""


def _label(pairs, one):
    """``(label,)`` of the first pair ``(label, value)`` whose value is ``one``; None if there is none."""
    for _ in range(3):
        try:
            return next(((label,) for label, value in itertools.islice(pairs(), ITEMS) if value is one), None)
        except RuntimeError:  # another thread has changed it meanwhile
            pass
    return None


def _slot(holder, one):
    for kind in bases(type(holder)):
        for name, slot in list(type.__dict__["__dict__"].__get__(kind).items()):
            try:
                if type(slot) is types.MemberDescriptorType and slot.__get__(holder) is one:
                    return name
            except AttributeError:  # it is empty
                pass
    return ""


def bases(kind):
    """A class and those that it is derived from, read without running code of its metaclass."""
    return type.__dict__["__mro__"].__get__(kind)


def attributes(holder):
    """The attributes of an object, read without running any of its code."""
    for kind in bases(type(holder)):
        part = type.__dict__["__dict__"].__get__(kind).get("__dict__")
        if type(part) in _PARTS:
            try:
                found = part.__get__(holder)
            except AttributeError:
                return {}
            return found if type(found) is dict else {}
    return {}


# -- in words ----------------------------------------------------------------------------------------------------------


def described(one):
    """``(what it is, its name)``."""
    kind = type(one)
    if issubclass(kind, types.ModuleType):
        name = attributes(one).get("__name__")
        return MODULE, name[:SHORT] if type(name) is str else "?"
    if issubclass(kind, type):
        return CLASS, type_name(one)[:SHORT]
    if kind is types.FunctionType:
        return FUNCTION, "function %s" % one.__qualname__[:SHORT]
    if kind in _FRAMES_OF:
        return FUNCTION, "%s %s" % (type_name(kind), one.__qualname__[:SHORT])
    if kind is types.FrameType:
        return FRAME, "%s, %s:%s" % (one.f_code.co_name[:SHORT], _file(one), one.f_lineno or 0)
    for base in (dict, list, tuple, set, frozenset, collections.deque):
        if issubclass(kind, base):
            return CONTAINER, "%s of %d" % (type_name(kind), base.__len__(one))
    if kind in (str, bytes, int, float, bool, type(None)) and size_of(one) < 1000:
        return OBJECT, ("%s %r" % (type_name(kind), one))[:SHORT]
    return OBJECT, type_name(kind)


def _file(frame):
    return os.path.basename(frame.f_code.co_filename)[-SHORT:]


def size_of(one):
    """Its bytes, without those of what it refers to, or None."""
    if type(one).__flags__ & HEAP_TYPE:  # its __sizeof__ may be the user's code, which we do not call
        return object.__sizeof__(one)
    try:
        return sys.getsizeof(one)
    except Exception:  # a __sizeof__ in C may fail for a broken object
        return None


def type_name(kind):
    """The name of a class, with its module."""
    module = type.__dict__["__dict__"].__get__(kind).get("__module__")
    name = type.__dict__["__name__"].__get__(kind)
    if type(module) is not str or module == "builtins":
        return name
    if (module + ".").startswith(own.PACKAGE + "."):
        module = "flame_agent" + module[len(own.PACKAGE) :]
    return "%s.%s" % (module, name)
