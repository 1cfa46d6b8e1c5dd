"""The list of variables: names of a session as DAP's ``Variable``, without a debugger.

https://microsoft.github.io/debug-adapter-protocol/specification#Types_Variable
"""

import reprlib
import types

# Most children listed of one container.
MOST_CHILDREN = 300
# References are numbered from here on: debugpy's own are small, so they cannot be confused.
FIRST_REFERENCE = 1 << 30

_MEMBERS = (types.GetSetDescriptorType, types.MemberDescriptorType)
# Types whose values have no children to show.
_ATOMS = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis), type(NotImplemented))
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)

_short = reprlib.Repr()
_short.maxlevel, _short.maxother = 4, 1000
_short.maxstring = _short.maxlong = 500
_short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = _short.maxdeque = 30


class Group(list):
    """Variables under one heading: ``(name, value, expression)``."""


class Variables:
    """Lists variables. The references in a listing are valid until the next one."""

    def __init__(self):
        self._things = []

    def top(self, names):
        """The variables in ``names``; functions are under a separate heading, as in debugpy."""
        self._things = []
        items = sorted(items_of(names), key=lambda item: (item[0].startswith("_"), item[0]))
        found = [(name, value, name) for name, value in items]
        functions = Group(one for one in found if isinstance(one[1], _CODE))
        rest = [self._variable(*one) for one in found if not isinstance(one[1], _CODE)]
        if functions:
            rest.insert(0, self._group("function variables", functions))
        return rest

    def children(self, reference):
        """The variables inside one that was listed; None if the reference is not ours."""
        if not isinstance(reference, int) or reference < FIRST_REFERENCE:
            return None
        try:
            thing, expression = self._things[reference - FIRST_REFERENCE]
        except IndexError:
            return []
        if isinstance(thing, Group):
            return [self._variable(*one) for one in thing]
        found, left = _children(thing, expression)
        listed = [self._variable(*one) for one in found]
        if left:
            listed.append(_leaf("...", "%d more are not listed" % left, "", ""))
        return listed

    def _group(self, name, group):
        return dict(_leaf(name, "", "", ""), variablesReference=self._refer(group, ""))

    def _variable(self, name, value, expression):
        variable = _leaf(name, shown(value), type(value).__name__, expression)
        if not isinstance(value, _ATOMS + _CODE):
            variable["variablesReference"] = self._refer(value, expression)
        return variable

    def _refer(self, thing, expression):
        self._things.append((thing, expression))
        return FIRST_REFERENCE + len(self._things) - 1


def shown(value):
    """A value as one short text, whatever its class does."""
    try:
        return _short.repr(value)
    except Exception as e:  # the user's __repr__ may raise anything; its class is shown
        return "<%s whose repr fails: %s>" % (type(value).__name__, type(e).__name__)


def _leaf(name, value, kind, expression):
    return {"name": name, "value": value, "type": kind, "evaluateName": expression, "variablesReference": 0}


def items_of(names):
    """The items of a dict of names that another thread may be changing."""
    for _ in range(20):
        try:
            return [(name, value) for name, value in names.items() if isinstance(name, str)]
        except RuntimeError:
            continue
    return []


def _children(thing, expression):
    """``([(name, value, expression)], how many are not listed)`` of a value's content; runs no property of its
    class."""
    if isinstance(thing, dict):
        for _ in range(20):
            try:
                items = list(dict.items(thing))
                break
            except RuntimeError:
                items = []
        found = [(shown(key), value, "%s[%s]" % (expression, shown(key))) for key, value in items[:MOST_CHILDREN]]
        return found, max(0, len(items) - MOST_CHILDREN)
    if isinstance(thing, (list, tuple)):
        part = thing[:MOST_CHILDREN]
        found = [(str(i), value, "%s[%d]" % (expression, i)) for i, value in enumerate(part)]
        return found + _named(thing, expression), max(0, len(thing) - MOST_CHILDREN)
    if isinstance(thing, (set, frozenset)):
        items = list(thing)
        return [(shown(value), value, "") for value in items[:MOST_CHILDREN]], max(0, len(items) - MOST_CHILDREN)
    found = _named(thing, expression)
    return found[:MOST_CHILDREN], max(0, len(found) - MOST_CHILDREN)


def _named(thing, expression):
    """The attributes in an object's own dict, and those of its class that are slots or implemented in C."""
    found = {}
    for cls in type(thing).__mro__[:-1]:
        for name, member in vars(cls).items():
            if isinstance(member, _MEMBERS) and not name.startswith("__"):
                try:
                    found.setdefault(name, member.__get__(thing, type(thing)))
                except Exception:  # an empty slot (AttributeError), or C code that may raise anything
                    continue
    for name, value in items_of(_own_dict(thing)):
        if not (name.startswith("__") and isinstance(thing, (type, types.ModuleType))):
            found[name] = value
    return [(name, value, "%s.%s" % (expression, name)) for name, value in sorted(found.items())]


def _own_dict(thing):
    try:
        own = object.__getattribute__(thing, "__dict__")
    except Exception:  # it has none (AttributeError), or the user's property of that name raises
        return {}
    return own if hasattr(own, "items") else {}
