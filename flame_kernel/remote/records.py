"""Finds the class of a received record: a class that was sent from here, or one that this program has loaded.

The far side sends the class's key or name.  A key identifies a class that we sent.  For a name, nothing is imported and
no code is run: it is looked up in the dicts of loaded modules, and must lead to a plain dataclass, an enum or a named
tuple of exactly that name.
"""

from __future__ import annotations

import sys
import types

from ..agent.wire import records
from .functions import sent_class


def known_class(key: str | None, module: str, name: str) -> type | None:
    """The class with this key, or this module and name; None if there is none."""
    kind = sent_class(key)
    if kind is not None:
        return kind if records.is_record(kind) else None
    found: object = sys.modules.get(module)
    if type(found) is not types.ModuleType:
        return None
    for part in name.split("."):
        if not isinstance(found, (types.ModuleType, type)):
            return None
        found = vars(found).get(part)
    if not isinstance(found, type) or issubclass(found, records.STAND_INS) or not records.is_record(found):
        return None
    declared, qualified = vars(found).get("__module__"), type.__dict__["__qualname__"].__get__(found)
    return found if (declared, qualified) == (module, name) else None
