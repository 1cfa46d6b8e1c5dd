"""Gives functions and classes new code in place, so that whoever holds one has the new code.

A class stays the same object.  What the module's new code has already made of the new class (instances, subclasses,
entries in registries) is moved to the old one.
"""

import functools
import gc
import sys
import types

# Attributes of a class that belong to the class object itself.
_OWN = frozenset(("__dict__", "__weakref__", "__slots__", "__mro__", "__base__", "__basicsize__", "__class__"))
_MISSING = object()


class Changes:
    """The changes when the module ``name`` is reloaded; ``kept`` names what could not be changed in place."""

    def __init__(self, name):
        self._module = name
        self._seen = set()
        self._classes = []  # (old, new)
        self.kept = []

    def apply(self, old, new, label):
        """Change ``old`` to be as ``new`` is; returns whether ``old`` can now stand in its place."""
        if old is new:
            return True
        if (id(old), id(new)) in self._seen:
            return True
        if type(old) is not type(new):
            return False
        if isinstance(old, types.FunctionType):
            return self._of_here(old) and self._function(old, new, label)
        if isinstance(old, type):
            return self._of_here(old) and self._class(old, new, label)
        if isinstance(old, (staticmethod, classmethod)):
            return self.apply(old.__func__, new.__func__, label)
        if isinstance(old, property):
            pairs = [(old.fget, new.fget), (old.fset, new.fset), (old.fdel, new.fdel)]
            done = [one is two is None or self.apply(one, two, label) for one, two in pairs]
            return all(done)
        return self._wrapped(old, new, label)

    def _of_here(self, thing):
        return getattr(thing, "__module__", None) == self._module

    def _wrapped(self, old, new, label):
        """Change an object that holds a function, such as ``functools.lru_cache`` and ``cached_property`` make."""
        if isinstance(old, functools.partial):
            alike = (old.args, old.keywords) == (new.args, new.keywords)
            return alike and self.apply(old.func, new.func, label)
        for name in ("__wrapped__", "func"):
            one, two = getattr(old, name, None), getattr(new, name, None)
            if isinstance(one, types.FunctionType) and isinstance(two, types.FunctionType):
                if _parameters(old) != _parameters(new) or not self.apply(one, two, label):
                    return False
                if hasattr(old, "cache_clear"):
                    old.cache_clear()
                return True
        return False

    # -- functions ---------------------------------------------------------------------------------------------------

    def _function(self, old, new, label):
        if old.__code__.co_freevars != new.__code__.co_freevars:
            self.kept.append(label)
            return False
        self._seen.add((id(old), id(new)))
        for one, two in zip(old.__closure__ or (), new.__closure__ or ()):
            before, after = _content(one), _content(two)
            if after is not _MISSING and (before is _MISSING or not self.apply(before, after, label)):
                set_cell(one, after)
        inner = old.__dict__.get("__wrapped__")
        copy(old, new)
        if inner is not None and self.apply(inner, new.__dict__.get("__wrapped__"), label):
            old.__dict__["__wrapped__"] = inner
        return True

    # -- classes -----------------------------------------------------------------------------------------------------

    def _class(self, old, new, label):
        if not _alike(old, new):
            self.kept.append(label)
            return False
        self._seen.add((id(old), id(new)))
        self._classes.append((old, new))
        for name in [one for one in old.__dict__ if one not in new.__dict__ and not _is_own(one)]:
            _try(type.__delattr__, old, name)
        for name, after in list(new.__dict__.items()):
            before = old.__dict__.get(name, _MISSING)
            if _is_own(name) or isinstance(after, (types.GetSetDescriptorType, types.MemberDescriptorType)):
                continue
            if before is _MISSING or not self.apply(before, after, "%s.%s" % (label, name)):
                _try(type.__setattr__, old, name, after)
        return True

    def finish(self):
        """Move what was made with the new classes to the old ones."""
        moved = {id(new): old for old, new in self._classes}
        for old, new in self._classes:
            bases = tuple(moved.get(id(one), one) for one in new.__bases__)
            if bases != old.__bases__:
                _try(type.__setattr__, old, "__bases__", bases)
        for old, new in self._classes:
            for holder in gc.get_referrers(new):
                if holder is not moved and holder is not self._classes:
                    _move(holder, new, old, moved)


def _alike(old, new):
    """Whether a class can be changed in place to be as another one is: its instances have the same form."""
    if type(old).__module__ == "enum" or old.__dict__.get("__slots__") != new.__dict__.get("__slots__"):
        return False
    names = ("__basicsize__", "__itemsize__", "__dictoffset__", "__weakrefoffset__")
    return all(getattr(old, name, None) == getattr(new, name, None) for name in names)


def _is_own(name):
    return name in _OWN or name.startswith("_abc_")


def _move(holder, new, old, moved):
    """Let ``holder`` refer to ``old`` instead of ``new``."""
    if type(holder) is new:
        _try(object.__setattr__, holder, "__class__", old)
    elif isinstance(holder, type):
        if id(holder) not in moved and new in holder.__bases__:
            bases = tuple(old if one is new else one for one in holder.__bases__)
            _try(type.__setattr__, holder, "__bases__", bases)
    elif type(holder) is dict:
        _in_dict(holder, new, old)
    elif type(holder) is list:
        holder[:] = [old if one is new else one for one in holder]
    elif type(holder) is set:
        holder.discard(new)
        holder.add(old)
    elif type(holder) is type(_cell()):
        set_cell(holder, old)
    elif type(getattr(holder, "__dict__", None)) is dict and not isinstance(holder, types.ModuleType):
        _in_dict(holder.__dict__, new, old)


def _in_dict(table, new, old):
    for key, value in list(table.items()):
        if value is new:
            table[key] = old
        if key is new:
            table[old] = table.pop(new)


# -- of functions ----------------------------------------------------------------------------------------------------


def copy(old, new):
    """Give a function the code and all attributes of another one with the same closure."""
    old.__code__ = new.__code__
    old.__defaults__ = new.__defaults__
    old.__kwdefaults__ = new.__kwdefaults__
    old.__doc__ = new.__doc__
    old.__qualname__ = new.__qualname__
    if hasattr(new, "__annotate__"):  # since Python 3.14 annotations are made when they are asked for
        old.__annotate__ = new.__annotate__
    else:
        old.__annotations__ = new.__annotations__
    old.__dict__.clear()
    old.__dict__.update(new.__dict__)


def set_code(function, code, defaults, keyword_defaults):
    """Give a function other code, as one step: no other thread runs Python between its parts."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    try:
        function.__code__ = code
        function.__defaults__ = defaults
        function.__kwdefaults__ = keyword_defaults
    finally:
        sys.setswitchinterval(before)


def _cell():
    thing = None
    return (lambda: thing).__closure__[0]


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def set_cell(cell, content):
    """Put something into a cell of a closure."""
    try:
        cell.cell_contents = content
    except AttributeError:  # Python 3.6
        import ctypes

        ctypes.pythonapi.PyCell_Set(ctypes.py_object(cell), ctypes.py_object(content))


def _parameters(cached):
    ask = getattr(cached, "cache_parameters", None)
    return ask() if ask is not None else None


def _try(change, *arguments):
    """Make a change that a class may refuse."""
    try:
        change(*arguments)
    except (AttributeError, TypeError, ValueError):
        pass
