"""Finds the class of an object of the far side: a class that was sent from here, or one that this program has loaded.

The far side sends the class's key or name.  A key identifies a class that we sent.  For a name, nothing is imported and
no code is run: it is looked up in the dicts of loaded modules, and must lead to a class of exactly that name.  Objects
are made only of plain dataclasses, enums and named tuples; any other class is only for the answer of ``isinstance``.
"""

from __future__ import annotations

import sys
import types
import uuid
import weakref
from typing import Any, cast

from ..agent.wire import records

# The user's classes that were sent, by their key on the far side, so that later calls use the same class there.
_keys: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


def class_key(kind: type) -> str:
    """The key that identifies a user's class on the far side."""
    key = _keys.get(kind)
    if key is None:
        key = _keys[kind] = uuid.uuid4().hex
        _classes[key] = kind
    return key


def sent_class(key: object) -> type | None:
    """The user's class that was sent with this key, or None."""
    return _classes.get(key) if isinstance(key, str) else None


def known_class(key: str | None, module: str, name: str) -> type | None:
    """The class with this key, or this module and name; None if there is none."""
    kind = sent_class(key)
    if kind is not None:
        return kind if records.is_record(kind) else None
    found = _named(module, module, name)
    return found if found is not None and records.is_record(found) else None


def nearest_class(listed: Any) -> type | None:
    """The first of an object's classes that is loaded here, whatever kind of class it is; None if none is.

    ``listed`` are the class and its bases, each as its key, module and name; TypeError if it has another form.
    """
    for key, module, name in listed[:_MOST] if isinstance(listed, list) else ():
        found = sent_class(key)
        if found is None:
            root = module.partition(".")[0]  # libraries move classes between the modules of a package
            found = _named(module, root, name) or _named(root, root, name)
        if found is not None:
            return found
    return None


def _named(module: str, declared: str, name: str) -> type | None:
    """The class with this name in a loaded module; None unless the class itself says so too, with the module or package
    ``declared``."""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        if type(found) is types.ModuleType:
            found = vars(found).get(part)
        elif issubclass(type(found), type):  # not isinstance, which may run code of an object's class
            found = _attributes(found).get(part)
        else:
            return None
    if not issubclass(type(found), type) or issubclass(cast("type", found), records.STAND_INS):
        return None
    where, qualified = (type.__dict__[one].__get__(found) for one in ("__module__", "__qualname__"))
    is_there = type(where) is str and (where == declared or where.partition(".")[0] == declared)
    return cast("type", found) if is_there and qualified == name else None


_attributes: Any = type.__dict__["__dict__"].__get__
# Most classes of one object that are looked for.
_MOST = 30
