"""Functions on their way to the far side: by their source, with the names, defaults and closure that they use.

What a function needs goes along if it is plain data, a stand-in, a module or something of an installed library (both
by their name, to be imported there), or another function of the user's, for which the same holds.  Anything else is
refused before anything was sent, by the variable's name and with what to do.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import inspect
import os
import sys
import sysconfig
import threading
import types
from collections.abc import Callable
from typing import Any

from ..agent.wire import scalars, values
from ..errors import CannotTravel
from .proxy import RemoteObject

_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib", "stdlib", "platstdlib")})
_NAMED = (types.FunctionType, types.BuiltinFunctionType, type, types.MethodDescriptorType, types.WrapperDescriptorType)

# Python 3.11 fails now and then where two threads make syntax trees at once (SystemError, "recursion depth mismatch").
_PARSING = threading.Lock()

Thing = list[Any]


class RemoteFunction:
    """A function of the user's that runs on the far side when it is called; what ``pi.remote`` makes of one.

    ``local`` is the function itself.  What it needs is looked up anew at each call, as Python does it.
    """

    def __init__(self, function: Callable[..., Any], run: Callable[..., Any], where: str) -> None:
        functools.update_wrapper(self, function)
        self.local = function
        self._run = run
        self._where = where

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.local, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<remote function {getattr(self.local, '__qualname__', self.local)} at {self._where}>"

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)


def ship(function: Any) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """What is sent of ``function``, and the arguments that a ``functools.partial`` has for it; raises CannotTravel."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while isinstance(function, (RemoteFunction, functools.partial)):
        if isinstance(function, functools.partial):
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
            function = function.func
        else:
            function = function.local
    if isinstance(function, types.MethodType):
        raise CannotTravel(
            f"{function.__qualname__} is bound to an object of this side; make a function that is given plain data"
        )
    shipment = _Shipment()
    if isinstance(function, types.FunctionType) and not _is_installed(function.__module__):
        entry = shipment.function(function, ())
    else:
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        thing = _by_name(function)
        if thing is None:
            raise CannotTravel(f"{name} is not a function with source; give one made by def or lambda")
        shipment.spaces.append({"call": thing})
        entry = shipment.plain("lambda *args, **kwargs: call(*args, **kwargs)")
    return {"entry": entry, "functions": shipment.functions, "spaces": shipment.spaces}, args, kwargs


class _Shipment:
    """What one function needs, found by following it. One use."""

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.spaces: list[dict[str, Thing]] = []
        self._numbers: dict[types.FunctionType, int] = {}
        self._space_of: dict[int, int] = {}

    def plain(self, source: str) -> int:
        """A function of ours, in the last space."""
        self.functions.append(_plan("call", source, "call", 1, space=len(self.spaces) - 1))
        return len(self.functions) - 1

    def function(self, function: types.FunctionType, path: tuple[str, ...]) -> int:
        """The number of a function, which is taken along with all it needs."""
        if function in self._numbers:
            return self._numbers[function]
        path = (*path, function.__name__)
        number = self._numbers[function] = len(self.functions)
        source, line, file = _source(function)
        space = self._space_of.setdefault(id(function.__globals__), len(self.spaces))
        if space == len(self.spaces):
            self.spaces.append({})
        free = list(function.__code__.co_freevars)
        plan = _plan(function.__code__.co_name, source, file, line, space=space, free=free)
        self.functions.append(plan)
        for name, cell in zip(free, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                raise CannotTravel(
                    f"{'.'.join(path)} uses {name}, which has no value yet; call it when it has one"
                ) from None
            plan["cells"].append(self._thing(content, name, path))
        if function.__defaults__ is not None:
            plan["defaults"] = [self._thing(one, "a default", path) for one in function.__defaults__]
        if function.__kwdefaults__ is not None:
            kwdefaults = function.__kwdefaults__.items()
            plan["kwdefaults"] = {name: self._thing(one, f"the default of {name}", path) for name, one in kwdefaults}
        for name in sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                self.spaces[space][name] = self._thing(function.__globals__[name], name, path)
            elif not hasattr(builtins, name) and name not in ("__name__", "__builtins__"):
                raise CannotTravel(
                    f"{'.'.join(path)} uses {name}, which is not defined here; import it inside the function, "
                    "or give it as an argument"
                )
        return number

    def _thing(self, one: Any, name: str, path: tuple[str, ...]) -> Thing:
        while isinstance(one, RemoteFunction):
            one = one.local
        if isinstance(one, types.ModuleType):
            return ["module", one.__name__]
        if isinstance(one, types.FunctionType) and not _is_installed(one.__module__):
            return ["function", self.function(one, path)]
        if isinstance(one, _NAMED):
            thing = _by_name(one)
            if thing is not None:
                return thing
        elif issubclass(type(one), RemoteObject):
            return ["value", one]
        else:
            try:
                values.encode(one, lambda inner: "" if issubclass(type(inner), RemoteObject) else None)
                return ["value", one]
            except scalars.NotPlain as error:
                reason = str(error)
            raise CannotTravel(
                f"{'.'.join(path)} uses {name}, which does not go to the far side: {reason}; "
                "make it inside the function, or give what it is made from as an argument"
            )
        what = "a class" if isinstance(one, type) else "a function without a source"
        raise CannotTravel(
            f"{'.'.join(path)} uses {name}, {what} of this side ({scalars.class_name(one)}); define it inside the "
            "function, or send its module with sendmodule and import it inside the function"
        )


def _plan(name: str, source: str, file: str, line: int, *, space: int, free: list[str] | None = None) -> dict[str, Any]:
    plan: dict[str, Any] = {"name": name, "source": source, "file": file, "line": line, "space": space}
    return {**plan, "free": free or [], "cells": [], "defaults": None, "kwdefaults": None}


def _is_installed(module: str | None) -> bool:
    """Whether a module is one of Python or of an installed library: the far side has its own, or has not."""
    root = (module or "__main__").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return bool(file) and str(file).startswith(_INSTALLED) and root != "__main__"


def _by_name(one: Any) -> Thing | None:
    """Something that a module has by a name, and that is to be had there by the same; None where it is not so."""
    module, name = getattr(one, "__module__", None), getattr(one, "__qualname__", None)
    module = module or getattr(getattr(one, "__objclass__", None), "__module__", None)  # of a method such as str.upper
    if not isinstance(module, str) or not isinstance(name, str) or not _is_installed(module):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return ["name", module, name] if found is one else None


def _global_names(code: types.CodeType) -> set[str]:
    """The global names that code, and what is defined in it, reads."""
    names = {str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _source(function: types.FunctionType) -> tuple[str, int, str]:
    """``(source without decorators, number of its first line, name of its file)``; raises CannotTravel."""
    code = function.__code__
    try:
        lines = inspect.findsource(code)[0]
        whole = "".join(lines)
        with _PARSING:
            tree = ast.parse(whole)
    except (OSError, TypeError, SyntaxError, ValueError, IndexError) as error:
        raise CannotTravel(
            f"the source of {function.__qualname__} cannot be read ({error}); define it in a file or a notebook's cell"
        ) from None
    file = os.path.basename(code.co_filename)
    if code.co_name == "<lambda>":
        node = _lambda(function, tree, whole)
        segment = ast.get_source_segment(whole, node)
        return f"({segment})", node.lineno, file
    for found in ast.walk(tree):
        if isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)) and found.name == code.co_name:
            first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
            if code.co_firstlineno in (first, found.lineno):
                return "".join(lines[found.lineno - 1 : found.end_lineno]), found.lineno, file
    raise CannotTravel(f"{function.__qualname__} is not in its file any more; reload that, or define it again")


def _lambda(function: types.FunctionType, tree: ast.AST, whole: str) -> ast.Lambda:
    """The node of a lambda: the only one in its line, or the only one there that comes to the same code."""
    code = function.__code__
    near = [one for one in ast.walk(tree) if isinstance(one, ast.Lambda) and one.lineno == code.co_firstlineno]
    if len(near) > 1:
        places = _places(code)
        if places:
            near = [one for one in near if all(_holds(one.body, place) for place in places)]
            near.sort(key=lambda one: len(ast.get_source_segment(whole, one) or ""))
            near = near[:1]  # one within another: the places of the inner are those of the outer one too
        else:
            near = [one for one in near if _compiles_to(one, code, whole)]
    if len({ast.get_source_segment(whole, one) for one in near}) != 1:
        raise CannotTravel("the source of this lambda cannot be told from others in its line; use def, or a line each")
    return near[0]


def _places(code: types.CodeType) -> list[tuple[int, int]]:
    """Where the parts of the code stand, ``(line, column in bytes)``; nothing before Python 3.11."""
    positions: Any = getattr(code, "co_positions", list)()
    return [(line, column) for line, _, column, end in positions if line and end]


def _holds(node: ast.expr, place: tuple[int, int]) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= place <= end


def _compiles_to(node: ast.Lambda, code: types.CodeType, whole: str) -> bool:
    """Whether a lambda comes to this code, in a function that has the same free names."""
    free = ", ".join(code.co_freevars) or "_"
    outer = compile(f"lambda {free}: ({ast.get_source_segment(whole, node)})", "lambda", "eval").co_consts[0]
    facts = (code.co_code, code.co_names, code.co_varnames, _constants(code))
    return any(
        (one.co_code, one.co_names, one.co_varnames, _constants(one)) == facts
        for one in getattr(outer, "co_consts", ())
        if isinstance(one, types.CodeType)
    )


def _constants(code: types.CodeType) -> tuple[Any, ...]:
    return tuple(one.co_code if isinstance(one, types.CodeType) else (type(one), one) for one in code.co_consts)
