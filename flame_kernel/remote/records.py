"""The class of a record that came: one that went there from here, or one that this program has imported already.

A far side says by what key or name it knows a class.  A key is one of ours.  By a name nothing is imported and no code
is run: it is looked for in the dicts of the modules that are loaded, and it has to lead to a plain data class, an enum
or a named tuple, of that very name.
"""

from __future__ import annotations

import sys
import types

from ..agent.wire import records
from .functions import sent_class


def known_class(key: str | None, module: str, name: str) -> type | None:
    """The class that is told so, or None."""
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
