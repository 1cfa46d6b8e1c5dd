"""What Python and installed libraries have under a name, which the far side has under the same one.

Looked for among the modules that are loaded here, and told only where the name leads back to the very object.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib", "stdlib", "platstdlib")})
# Made anew at each look, and equal where they are bound to the same object.
_METHODS = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)


def is_installed(module: str | None) -> bool:
    """Whether a module is one of Python or of an installed library: the far side has its own, or has not."""
    root = (module or "__main__").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return bool(file) and str(file).startswith(_INSTALLED) and root != "__main__"


def find(one: Any) -> list[str] | None:
    """``["name", module, qualified name]`` of something that an installed module has; None where it is not so."""
    if one is os.environ:
        return ["name", "os", "environ"]
    name = _name(one)
    if name is None:
        return None
    for module in _modules(one):
        if is_installed(module) and _leads_to(sys.modules.get(module), name, one):
            return ["name", module, name]
    return _anywhere(one, name)


def _text(one: Any, attribute: str) -> str | None:
    try:
        found = getattr(one, attribute, None)
    except Exception:  # an attribute of the user's object may raise anything
        return None
    return found if isinstance(found, str) else None


def _name(one: Any) -> str | None:
    name = _text(one, "__qualname__") or _text(one, "__name__")
    if name is None and type(one).__module__ == "typing":
        name = _text(one, "_name")
    bound = getattr(one, "__self__", None) if isinstance(one, _METHODS) else None
    if bound is not None and not isinstance(bound, (type, types.ModuleType)):
        name = _text(one, "__name__")  # of a module's own object, such as random.randint
    return name


def _modules(one: Any) -> Iterator[str]:
    """Where it may be, the most public first."""
    bound = getattr(one, "__self__", None) if isinstance(one, _METHODS) else None
    declared = [_text(one, "__module__")]
    if not isinstance(one, type):
        owner = getattr(one, "__objclass__", None) if isinstance(one, _DESCRIPTORS) else bound
        if owner is not None:
            declared.append(owner.__module__ if isinstance(owner, type) else type(owner).__module__)
        declared.append(type(one).__module__)
    for module in filter(None, declared):
        parts = module.split(".")
        for depth in range(len(parts)):
            yield ".".join((*parts[:depth], parts[depth].lstrip("_")))
            yield ".".join(parts[: depth + 1])


_DESCRIPTORS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)


def _leads_to(module: Any, name: str, one: Any) -> bool:
    found = module
    for part in name.split("."):
        if found is None:
            return False
        try:
            found = getattr(found, part, None)
        except Exception:  # a module's attribute may be loaded when it is asked for, and that may fail
            return False
    return found is one or (type(found) is type(one) and isinstance(one, _METHODS) and bool(found == one))


def _anywhere(one: Any, name: str) -> list[str] | None:
    """In any loaded module, under its own name; of ``types`` also under another."""
    if "." not in name and (callable(one) or type(one).__module__ == "typing"):
        for module, content in list(sys.modules.items()):
            # Under such a name may be anything.
            has = type(content) is types.ModuleType and vars(content).get(name) is not None and is_installed(module)
            if has and _leads_to(content, name, one):
                return ["name", module, name]
    if isinstance(one, type) and one.__module__ == "builtins":
        return _types().get(one)
    return None


@functools.cache
def _types() -> dict[type, list[str]]:
    return {kind: ["name", "types", name] for name, kind in vars(types).items() if isinstance(kind, type)}
