"""Finds the module and name of an object of Python or an installed library, so that the far side can import it.

Only loaded modules are searched, and a name is returned only if it leads back to the same object. At the end stands
what a function requires by name: ``@flame.require("numpy")``.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib", "stdlib", "platstdlib")})
# Each attribute access makes a new one; they are equal if they are bound to the same object.
_METHODS = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)


def is_installed(module: str | None) -> bool:
    """Whether a module belongs to Python or an installed library: it is not sent, the far side has its own."""
    root = (module or "__main__").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return bool(file) and str(file).startswith(_INSTALLED) and root != "__main__"


def find(one: Any) -> list[str] | None:
    """``["name", module, qualified name]`` of an object of an installed module; None for other objects."""
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
        name = _text(one, "__name__")  # a bound method that is a module's attribute, such as random.randint
    return name


def _modules(one: Any) -> Iterator[str]:
    """The modules that may have the object, the most public first."""
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
        except Exception:  # a module may load attributes on access, and that may fail
            return False
    return found is one or (type(found) is type(one) and isinstance(one, _METHODS) and bool(found == one))


def _anywhere(one: Any, name: str) -> list[str] | None:
    """Search all loaded modules for the object by its own name, and ``types`` also for another name."""
    if "." not in name and (callable(one) or type(one).__module__ == "typing"):
        for module, content in list(sys.modules.items()):
            # Any object may be in sys.modules.
            has = type(content) is types.ModuleType and vars(content).get(name) is not None and is_installed(module)
            if has and _leads_to(content, name, one):
                return ["name", module, name]
    if isinstance(one, type) and one.__module__ == "builtins":
        return _types().get(one)
    return None


@functools.cache
def _types() -> dict[type, list[str]]:
    return {kind: ["name", "types", name] for name, kind in vars(types).items() if isinstance(kind, type)}


# -- what a function requires

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__flame_requires__"


def require(*needed: str | Callable[..., Any]) -> Callable[[F], F]:
    """Decorator for a function that is sent to a far side: ``@flame.require("numpy", "os.path", helper)``.

    Modules are imported there before it runs, and bound to their first names; functions and classes are sent along. If
    a module is missing there, the call raises ModuleNotFoundError.
    """
    for one in needed:
        is_module = isinstance(one, str) and all(part.isidentifier() for part in one.split("."))
        if not is_module and (isinstance(one, str) or not callable(one)):
            raise TypeError(f"{one!r} cannot be required: name modules such as 'numpy', or give functions or classes")

    def mark(function: F) -> F:
        if not isinstance(function, types.FunctionType):
            raise TypeError(f"only a function can require something, not a {type(function).__name__}")
        before = getattr(function, _MARK, ())
        setattr(function, _MARK, (*before, *needed))
        return function

    return mark


def required(function: Any) -> list[str]:
    """The names of the modules that a function requires."""
    return [one for one in getattr(function, _MARK, ()) if isinstance(one, str)]


def space_of(function: Any) -> dict[str, Any]:
    """The global names of a function, with what it requires."""
    needed = getattr(function, _MARK, ())
    names: dict[str, Any] = function.__globals__
    if not needed:
        return names
    found: dict[str, Any] = {}
    for one in needed:
        if isinstance(one, str):
            top = one.partition(".")[0]
            found[top] = sys.modules.get(top) or types.ModuleType(top)
        else:
            found[one.__name__] = one
    return {**found, **names}
